"""What the assets of all stages have in common, said once: key, code version, automation, partitions, retries.

Here: the decorators of the bodies in `assets`. What does not belong here: what a run records (`records`), and which stages
there are.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from gluscope_assets.orchestration.automation import WHEN_INPUTS_CHANGE
from gluscope_assets.orchestration.partitions import layer_partitions
from gluscope_assets.orchestration.records import OWNERS
from gluscope_assets.orchestration.retries import tried_again_if_transient
from gluscope_assets.study.fingerprints import code_version
from gluscope_assets.study.study import Study

Declare = Callable[[Callable[..., dg.MaterializeResult[None]]], dg.AssetsDefinition]
"""Makes the body of an asset the asset."""


def stage_asset(study: Study, group: str, kinds: set[str], deps: Sequence[str], **options: Any) -> Declare:
    """Make a body the asset of a stage of a study, which has the body's name and, as its description, the docstring.

    `deps` are the stages that it reads. It runs again when they change and is tried again when what failed may pass.
    `options` are further ones of `dagster.asset`, and overrule these.
    """

    def declare(body: Callable[..., dg.MaterializeResult[None]]) -> dg.AssetsDefinition:
        shared: dict[str, Any] = {
            "key": [study.name, body.__name__],
            "description": inspect.getdoc(body),
            "group_name": group,
            "kinds": kinds,
            "owners": OWNERS,
            "deps": [[study.name, stage] for stage in deps],
            "code_version": code_version(study, body.__name__),
            "automation_condition": WHEN_INPUTS_CHANGE,
        }
        return dg.asset(**shared | options)(tried_again_if_transient(body))

    return declare


def layer_asset(study: Study, group: str, kinds: set[str], deps: Sequence[str], pool: str | None = None) -> Declare:
    """As `stage_asset`, with a partition for each checkpoint and layer, of which one run makes as many as are asked for."""
    partitions, policy = layer_partitions(study), dg.BackfillPolicy.single_run()
    return stage_asset(study, group, kinds, deps, partitions_def=partitions, backfill_policy=policy, pool=pool)
