"""Jobs that a person or a schedule starts. Everything else runs by asset, from the command line or by automation."""

from typing import TYPE_CHECKING

import dagster as dg

from gluscope_assets.orchestration.partitions import layer_partitions
from gluscope_assets.study.fingerprints import LAYER_STAGES
from gluscope_assets.study.study import Study

if TYPE_CHECKING:
    # Dagster exports this type from no public module.
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition


def observe_corpus_job(study: Study) -> "UnresolvedAssetJobDefinition":
    """Looks at the corpus source."""
    return dg.define_asset_job(
        f"{study.name}_observe_corpus",
        selection=dg.AssetSelection.assets([study.name, "corpus_source"]),
        description=f"Looks whether the texts of {study.name} have changed.",
    )


def build_missing_job(study: Study) -> "UnresolvedAssetJobDefinition":
    """Everything of one layer of one checkpoint."""
    return dg.define_asset_job(
        f"{study.name}_build_layer",
        selection=dg.AssetSelection.assets(*([study.name, stage] for stage in LAYER_STAGES)),
        partitions_def=layer_partitions(study),
        description=f"Weights, activations, aggregates and pages of one layer of one checkpoint of {study.name}.",
    )


def publish_job(study: Study) -> "UnresolvedAssetJobDefinition":
    """Publishes the site."""
    return dg.define_asset_job(
        f"{study.name}_publish",
        selection=dg.AssetSelection.assets([study.name, "published_site"]),
        description=f"Copies the site of {study.name} to its public place.",
    )
