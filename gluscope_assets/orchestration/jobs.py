"""Jobs that a person or a schedule starts. Everything else runs by asset, from the command line or by automation."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import dagster as dg

from gluscope_assets.study.fingerprints import LAYER_STAGES
from gluscope_assets.study.study import Study

if TYPE_CHECKING:
    # Dagster exports this type from no public module.
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition


def observe_corpus_job(study: Study) -> "UnresolvedAssetJobDefinition":
    """Looks at the corpus source."""
    return _job(study, "observe_corpus", ["corpus_source"], f"Looks whether the texts of {study.name} have changed.")


def build_layer_job(study: Study) -> "UnresolvedAssetJobDefinition":
    """Everything of one layer of one checkpoint."""
    description = f"Weights, activations, aggregates and pages of one layer of one checkpoint of {study.name}."
    return _job(study, "build_layer", LAYER_STAGES, description)


def publish_job(study: Study) -> "UnresolvedAssetJobDefinition":
    """Publishes the site."""
    return _job(study, "publish", ["published_site"], f"Copies the site of {study.name} to its public place.")


def _job(study: Study, name: str, stages: Iterable[str], description: str) -> "UnresolvedAssetJobDefinition":
    """Some stages of a study; the job has the partitions that they share."""
    selection = dg.AssetSelection.assets(*([study.name, stage] for stage in stages))
    return dg.define_asset_job(f"{study.name}_{name}", selection, description=description)
