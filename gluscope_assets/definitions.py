"""Everything Dagster sees: `build_defs` puts studies together, `defs` is what a code server loads.

Nothing else happens at import, and neither torch nor transformers is imported.
"""

import warnings
from collections.abc import Iterable, Mapping

import dagster as dg

from gluscope_assets.assets.activation_shards import build_activation_shards
from gluscope_assets.assets.corpus_source import build_corpus_source
from gluscope_assets.assets.model_checkpoint import build_model_checkpoint
from gluscope_assets.assets.neuron_pages import build_neuron_pages
from gluscope_assets.assets.neuron_weights import build_neuron_weights
from gluscope_assets.assets.published_site import build_published_site
from gluscope_assets.assets.quadrant_aggregates import build_quadrant_aggregates
from gluscope_assets.assets.site import build_site
from gluscope_assets.assets.tokenized_corpus import build_tokenized_corpus
from gluscope_assets.core.paths import StudyFolder, default_home
from gluscope_assets.orchestration.alerts import failure_alert_sensor
from gluscope_assets.orchestration.automation import automation_sensors
from gluscope_assets.orchestration.checks import build_checks
from gluscope_assets.orchestration.jobs import publish_job
from gluscope_assets.orchestration.resources import Device, ProgressDisplay, Storage
from gluscope_assets.orchestration.sensors import corpus_schedule, missing_schedule, new_checkpoints_sensor
from gluscope_assets.study.registry import with_registry
from gluscope_assets.study.study import Study, find_studies

ASSETS = (
    build_corpus_source,
    build_tokenized_corpus,
    build_model_checkpoint,
    build_neuron_weights,
    build_activation_shards,
    build_quadrant_aggregates,
    build_neuron_pages,
    build_site,
    build_published_site,
)
"""In the order of the graph."""

# A forked process must not inherit torch's threads.
EXECUTOR = dg.multiprocess_executor.configured({"start_method": {"spawn": {}}})


def build_defs(studies: Iterable[Study], resources: Mapping[str, object] | None = None) -> dg.Definitions:
    """Fresh definitions of `studies`; `resources` take the place of the default ones of the same name."""
    studies = list(studies)
    with warnings.catch_warnings():
        # Backfill policies and observable sources are beta in Dagster 1.13; its version is pinned.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.Definitions(
            assets=[build(study) for study in studies for build in ASSETS],
            asset_checks=[check for study in studies for check in build_checks(study)],
            # The schedules bring theirs with them.
            jobs=[publish_job(study) for study in studies],
            sensors=[
                *(new_checkpoints_sensor(study) for study in studies),
                *automation_sensors([study.name for study in studies]),
                failure_alert_sensor(),
            ],
            schedules=[build(study) for study in studies for build in (corpus_schedule, missing_schedule)],
            executor=EXECUTOR,
            resources={
                "storage": Storage(home=str(default_home())),
                "device": Device(),
                "progress": ProgressDisplay(),
                **(resources or {}),
            },
        )


defs = build_defs(with_registry(study, StudyFolder(default_home() / name)) for name, study in find_studies().items())
