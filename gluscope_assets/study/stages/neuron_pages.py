"""The rendered pages of a layer, and its columns for the explorer."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING

from gluscope_assets.core.corpus.decoder import TokenDecoder
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.files import replacing
from gluscope_assets.core.pages.explorer_columns import write_columns, write_vocabulary
from gluscope_assets.core.pages.rendering import render_layers
from gluscope_assets.core.paths import pages_folder
from gluscope_assets.core.progress import Progress
from gluscope_assets.core.reports import StageReport
from gluscope_assets.study.batch import LayerBatch
from gluscope_assets.study.sources import layer_source, site_map

if TYPE_CHECKING:
    from gluscope_assets.core.model.checkpoint import Checkpoint


def make_neuron_pages(
    batch: LayerBatch, progress: Progress, checkpoints: Sequence["Checkpoint"]
) -> Iterator[tuple[int, StageReport]]:
    """Write the pages and columns of the layers, and then of each layer a report that says what they were made from.

    `checkpoints` are all of the study's, in the order of training. Progress counts pages.
    """
    folder, key = batch.folder, batch.key
    corpus, decoder = TokenizedCorpus.open(folder.corpus), TokenDecoder.from_folder(batch.checkpoint.folder)
    write_vocabulary(folder.site, decoder)
    pages = site_map(batch.study, folder, checkpoints)
    sources = [layer_source(batch.study, folder, pages, batch.checkpoint, layer) for layer in batch.layers]
    # Were a run to end half-way, files from two renderings would pass for those of the report.
    for layer in batch.layers:
        folder.page_report(key, layer).unlink(missing_ok=True)
    with closing(render_layers(folder.site, sources, progress)) as reports:
        for source, report in zip(sources, reports, strict=True):
            layer = source.layer
            columns = write_columns(folder.site, source, corpus, decoder)
            with replacing(folder.page_report(key, layer)) as path:
                path.write_text(json.dumps({**batch.provenance[layer], **asdict(report)}, indent=1))
            metadata = report.metadata() | {"bytes of columns": columns, "path": folder.site / pages_folder(key, layer)}
            yield layer, StageReport(metadata, pages=report.samples)
