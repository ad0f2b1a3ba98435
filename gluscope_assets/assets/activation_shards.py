"""Activation shards: one forward pass over the corpus."""

from functools import partial

import dagster as dg

from gluscope_assets.orchestration.records import make_layers
from gluscope_assets.orchestration.resources import GPU_POOL, Device, ProgressDisplay, Storage
from gluscope_assets.orchestration.stage_assets import layer_asset
from gluscope_assets.study.study import Study


def build_activation_shards(study: Study) -> dg.AssetsDefinition:
    """The partial aggregates of each layer, from one forward pass for all layers asked for."""

    @layer_asset(
        study, group="activations", kinds={"pytorch", "parquet"}, deps=["tokenized_corpus", "model_checkpoint"], pool=GPU_POOL
    )
    def activation_shards(
        context: dg.AssetExecutionContext, storage: Storage, device: Device, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        """Exact partial aggregates of each layer, with the windows of their examples and a sample of positions."""
        from gluscope_assets.study.stages.activation_shards import make_activation_shards

        make = partial(make_activation_shards, devices=device.all(), processes=device.processes)
        return make_layers(context, study, storage, progress, "activations", "tokens", make)

    return activation_shards
