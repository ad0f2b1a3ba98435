"""The partial aggregates of each layer, from one forward pass for all layers asked for."""

from collections.abc import Iterator, Sequence

from gluscope_assets.core.collect.job import Collection, collect
from gluscope_assets.core.collect.shards import adopt
from gluscope_assets.core.model.loading import forward_dtype
from gluscope_assets.core.progress import Progress
from gluscope_assets.core.reports import StageReport
from gluscope_assets.study.batch import LayerBatch


def make_activation_shards(
    batch: LayerBatch, progress: Progress, devices: Sequence[str], processes: int | None
) -> Iterator[tuple[int, StageReport]]:
    """Write every shard of the layers that is not finished. Progress counts tokens.

    `processes` says how many share a CPU; as many as its cores keep busy if absent.
    """
    study, root = batch.study, batch.folder.shards(batch.key)
    for twin in batch.folder.twins("shards", batch.key):
        adopt(twin, root, batch.layers)
    collection = Collection(
        checkpoint=batch.checkpoint,
        dtype=forward_dtype(study.model.dtype, devices[0]),
        corpus=batch.folder.corpus,
        layers=batch.layers,
        model_layers=study.model.layer_numbers,
        stack=study.model.stack,
        device_map=study.model.device_map,
        options=study.collection,
        root=root,
        provenance=batch.shared_provenance,
        origin=batch.origin,
    )
    # A model that is spread over all GPUs runs in one process.
    report = collect(collection, devices if study.model.device_map is None else devices[:1], progress, processes)
    for layer in batch.layers:
        shards = batch.folder.layer_shards(batch.key, layer)
        yield layer, StageReport(report.metadata(layer) | {"path": shards.folder}, shards.first_statistics)
