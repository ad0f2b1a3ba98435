"""Neuron pages: one a neuron."""

from functools import partial

import dagster as dg

from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.orchestration.automation import WHEN_INPUTS_CHANGE
from gluscope_assets.orchestration.partitions import layer_partitions
from gluscope_assets.orchestration.records import attributes, make_layers
from gluscope_assets.orchestration.resources import ProgressDisplay, Storage
from gluscope_assets.orchestration.retries import tried_again_if_transient
from gluscope_assets.study.stages.neuron_pages import make_neuron_pages
from gluscope_assets.study.study import Study


def build_neuron_pages(study: Study) -> dg.AssetsDefinition:
    """A page for each neuron that the study's page selections hold."""

    @dg.asset(
        **attributes(study, "neuron_pages", "site", {"python", "html"}),
        partitions_def=layer_partitions(study),
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[[study.name, stage] for stage in ("quadrant_aggregates", "neuron_weights", "tokenized_corpus")],
        automation_condition=WHEN_INPUTS_CHANGE,
        description="The rendered pages of a layer.",
    )
    @tried_again_if_transient
    def neuron_pages(
        context: dg.AssetExecutionContext, storage: Storage, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        checkpoints = [resolve_checkpoint(options) for options in study.model.checkpoints]
        make = partial(make_neuron_pages, checkpoints=checkpoints)
        return make_layers(context, study, storage, progress, "pages", make)

    return neuron_pages
