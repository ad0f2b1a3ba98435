"""Quadrant aggregates: the merge of shards."""

import dagster as dg

from gluscope_assets.orchestration.automation import WHEN_INPUTS_CHANGE
from gluscope_assets.orchestration.partitions import layer_partitions
from gluscope_assets.orchestration.records import attributes, make_layers
from gluscope_assets.orchestration.resources import ProgressDisplay, Storage
from gluscope_assets.orchestration.retries import tried_again_if_transient
from gluscope_assets.study.stages.quadrant_aggregates import make_quadrant_aggregates
from gluscope_assets.study.study import Study


def build_quadrant_aggregates(study: Study) -> dg.AssetsDefinition:
    """The merge of each layer's shards."""

    @dg.asset(
        **attributes(study, "quadrant_aggregates", "activations", {"polars", "parquet"}),
        partitions_def=layer_partitions(study),
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[[study.name, "activation_shards"]],
        automation_condition=WHEN_INPUTS_CHANGE,
        description="One row a neuron: a light table of statistics, a heavy one of examples with windows, and the sample.",
    )
    @tried_again_if_transient
    def quadrant_aggregates(
        context: dg.AssetExecutionContext, storage: Storage, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        return make_layers(context, study, storage, progress, "layers", make_quadrant_aggregates)

    return quadrant_aggregates
