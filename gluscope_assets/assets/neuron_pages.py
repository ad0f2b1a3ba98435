"""Neuron pages: one a neuron."""

from functools import partial

import dagster as dg

from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.orchestration.records import make_layers
from gluscope_assets.orchestration.resources import ProgressDisplay, Storage
from gluscope_assets.orchestration.stage_assets import layer_asset
from gluscope_assets.study.stages.neuron_pages import make_neuron_pages
from gluscope_assets.study.study import Study


def build_neuron_pages(study: Study) -> dg.AssetsDefinition:
    """A page for each neuron that the study's page selections hold."""

    @layer_asset(
        study, group="site", kinds={"python", "html"}, deps=["quadrant_aggregates", "neuron_weights", "tokenized_corpus"]
    )
    def neuron_pages(
        context: dg.AssetExecutionContext, storage: Storage, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        """The rendered pages of a layer."""
        checkpoints = [resolve_checkpoint(options) for options in study.model.checkpoints]
        make = partial(make_neuron_pages, checkpoints=checkpoints)
        return make_layers(context, study, storage, progress, "pages", "pages", make)

    return neuron_pages
