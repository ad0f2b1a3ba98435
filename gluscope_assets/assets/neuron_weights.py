"""What the weights of neurons say."""

from functools import partial

import dagster as dg

from gluscope_assets.orchestration.records import make_layers
from gluscope_assets.orchestration.resources import GPU_POOL, Device, ProgressDisplay, Storage
from gluscope_assets.orchestration.stage_assets import layer_asset
from gluscope_assets.study.study import Study


def build_neuron_weights(study: Study) -> dg.AssetsDefinition:
    """What the three weight vectors of each neuron say without any text."""

    @layer_asset(study, group="model", kinds={"pytorch", "parquet"}, deps=["model_checkpoint"], pool=GPU_POOL)
    def neuron_weights(
        context: dg.AssetExecutionContext, storage: Storage, device: Device, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        """One row a neuron: cosines of its weight vectors, orientation, input-output class, tokens it promotes."""
        from gluscope_assets.study.stages.neuron_weights import make_neuron_weights

        make = partial(make_neuron_weights, device=device.all()[0])
        return make_layers(context, study, storage, progress, "weights", "layers", make)

    return neuron_weights
