"""What the weights of neurons say."""

from functools import partial

import dagster as dg

from gluscope_assets.orchestration.automation import WHEN_INPUTS_CHANGE
from gluscope_assets.orchestration.partitions import layer_partitions
from gluscope_assets.orchestration.records import attributes, make_layers
from gluscope_assets.orchestration.resources import GPU_POOL, Device, ProgressDisplay, Storage
from gluscope_assets.orchestration.retries import tried_again_if_transient
from gluscope_assets.study.study import Study


def build_neuron_weights(study: Study) -> dg.AssetsDefinition:
    """What the three weight vectors of each neuron say without any text."""

    @dg.asset(
        **attributes(study, "neuron_weights", "model", {"pytorch", "parquet"}),
        partitions_def=layer_partitions(study),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=GPU_POOL,
        deps=[[study.name, "model_checkpoint"]],
        automation_condition=WHEN_INPUTS_CHANGE,
        description="One row a neuron: cosines of its weight vectors, orientation, input-output class, tokens it promotes.",
    )
    @tried_again_if_transient
    def neuron_weights(
        context: dg.AssetExecutionContext, storage: Storage, device: Device, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        from gluscope_assets.study.stages.neuron_weights import make_neuron_weights

        make = partial(make_neuron_weights, device=device.all()[0])
        return make_layers(context, study, storage, progress, "layers", make)

    return neuron_weights
