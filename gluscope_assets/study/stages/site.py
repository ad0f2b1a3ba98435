"""What surrounds the pages of all checkpoints: overview, explorer, strips along training, and the dataset beside them."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from gluscope_assets.core.corpus.decoder import TokenDecoder
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.exchange.dataset import remove_dataset, write_dataset
from gluscope_assets.core.pages.strips import StripSources
from gluscope_assets.core.paths import DATASET, INDEX, LayerTables, StudyFolder
from gluscope_assets.core.reports import StageReport
from gluscope_assets.core.site.overview import overview_of
from gluscope_assets.core.site.site import render_site
from gluscope_assets.study.measurement import RecordedShards, measurement_of
from gluscope_assets.study.sources import all_sources, rendered_tables, site_map

if TYPE_CHECKING:
    from gluscope_assets.core.model.checkpoint import Checkpoint
    from gluscope_assets.study.study import Study


def make_site(
    study: "Study",
    folder: StudyFolder,
    checkpoints: Sequence["Checkpoint"],
    retired: Collection[str],
    records: Sequence[RecordedShards],
) -> StageReport:
    """Write what surrounds the pages that are there; `checkpoints` are in the order of training.

    Pages of the `retired` checkpoints, by key, stay. `records` are what was recorded of forward passes.
    """
    license = study.site.dataset_license
    if license is None:
        remove_dataset(folder.site / DATASET)
    else:
        write_dataset(all_sources(study, folder), folder.site / DATASET, license)
    tables = {checkpoint.key: rendered_tables(study, folder, checkpoint) for checkpoint in checkpoints}
    by_layer: dict[int, list[LayerTables]] = {}
    for of_layer in (of_layer for of_checkpoint in tables.values() for of_layer in of_checkpoint):
        by_layer.setdefault(of_layer.layer, []).append(of_layer)
    corpus = TokenizedCorpus.open(folder.corpus)
    report = render_site(
        folder.site,
        site_map(study, folder, checkpoints),
        measurement_of(study, corpus, [(checkpoint, tables[checkpoint.key]) for checkpoint in checkpoints], records),
        overview_of(list(tables.items()), study.site.view),
        StripSources(by_layer, corpus, TokenDecoder.from_folder(checkpoints[-1].folder)),
        retired=retired,
        dataset_license=license,
    )
    return StageReport(report.metadata() | {"path": folder.site / INDEX}, pages=report.samples)
