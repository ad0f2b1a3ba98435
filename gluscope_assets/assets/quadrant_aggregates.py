"""Quadrant aggregates: the merge of shards."""

import dagster as dg

from gluscope_assets.orchestration.records import make_layers
from gluscope_assets.orchestration.resources import ProgressDisplay, Storage
from gluscope_assets.orchestration.stage_assets import layer_asset
from gluscope_assets.study.stages.quadrant_aggregates import make_quadrant_aggregates
from gluscope_assets.study.study import Study


def build_quadrant_aggregates(study: Study) -> dg.AssetsDefinition:
    """The merge of each layer's shards."""

    @layer_asset(study, group="activations", kinds={"polars", "parquet"}, deps=["activation_shards"])
    def quadrant_aggregates(
        context: dg.AssetExecutionContext, storage: Storage, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        """One row a neuron: a light table of statistics, a heavy one of examples with windows, and the sample."""
        return make_layers(context, study, storage, progress, "aggregates", "layers", make_quadrant_aggregates)

    return quadrant_aggregates
