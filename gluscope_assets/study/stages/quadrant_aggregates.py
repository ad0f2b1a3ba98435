"""The merge of each layer's shards."""

from collections.abc import Iterator

from gluscope_assets.core.collect.shards import merge_layers
from gluscope_assets.core.progress import Progress
from gluscope_assets.core.quadrants import QUADRANTS
from gluscope_assets.core.reports import StageReport, size_of
from gluscope_assets.study.batch import LayerBatch

SHOWN = ("neuron", "zero", *(f"{quadrant}_count" for quadrant in QUADRANTS))


def make_quadrant_aggregates(batch: LayerBatch, progress: Progress) -> Iterator[tuple[int, StageReport]]:
    """Merge the shards of the layers, and drop them if the study says so. Progress counts layers."""
    drop = batch.study.storage.drop_merged_shards
    reports = merge_layers(
        batch.folder.shards(batch.key), batch.layers, batch.aggregate, batch.provenance.__getitem__, drop, progress
    )
    for layer, report in reports.items():
        folder = batch.aggregate(layer)
        metadata = report.metadata() | {"bytes": size_of(folder), "shards dropped": drop, "path": folder}
        yield layer, StageReport(metadata, batch.folder.tables(batch.key, layer).statistics, SHOWN)
