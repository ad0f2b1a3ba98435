"""Activation shards: one forward pass over the corpus."""

from functools import partial

import dagster as dg

from gluscope_assets.orchestration.automation import WHEN_INPUTS_CHANGE
from gluscope_assets.orchestration.partitions import layer_partitions
from gluscope_assets.orchestration.records import attributes, make_layers
from gluscope_assets.orchestration.resources import GPU_POOL, Device, ProgressDisplay, Storage
from gluscope_assets.orchestration.retries import tried_again_if_transient
from gluscope_assets.study.study import Study


def build_activation_shards(study: Study) -> dg.AssetsDefinition:
    """The partial aggregates of each layer, from one forward pass for all layers asked for."""

    @dg.asset(
        **attributes(study, "activation_shards", "activations", {"pytorch", "parquet"}),
        partitions_def=layer_partitions(study),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=GPU_POOL,
        deps=[[study.name, "tokenized_corpus"], [study.name, "model_checkpoint"]],
        automation_condition=WHEN_INPUTS_CHANGE,
        description="Exact partial aggregates of each layer, with the windows of their examples and a sample of positions.",
    )
    @tried_again_if_transient
    def activation_shards(
        context: dg.AssetExecutionContext, storage: Storage, device: Device, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        from gluscope_assets.study.stages.activation_shards import make_activation_shards

        make = partial(make_activation_shards, devices=device.all(), processes=device.processes)
        return make_layers(context, study, storage, progress, "tokens", make)

    return activation_shards
