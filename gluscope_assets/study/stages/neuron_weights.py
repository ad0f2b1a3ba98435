"""What the three weight vectors of each neuron say without any text."""

import os
from collections.abc import Iterator

from gluscope_assets.core.files import read_provenance
from gluscope_assets.core.model.weights import write_neuron_weights
from gluscope_assets.core.progress import Progress
from gluscope_assets.core.reports import StageReport, size_of
from gluscope_assets.study.batch import LayerBatch


def make_neuron_weights(batch: LayerBatch, progress: Progress, device: str) -> Iterator[tuple[int, StageReport]]:
    """Write the table of each layer that no checkpoint of the same weights has. Progress counts layers."""
    missing = [layer for layer in batch.layers if not adopt_weights(batch, layer)]
    if missing:
        stack = batch.study.model.stack
        write_neuron_weights(batch.checkpoint, missing, batch.weights, batch.shared_provenance, stack, device, progress)
    for layer in batch.layers:
        path = batch.weights(layer)
        shown = ("neuron", "orientation", "cos_gate_in", "cos_in_out", "class")
        yield layer, StageReport({"bytes": size_of(path), "path": path}, path, shown)


def adopt_weights(batch: LayerBatch, layer: int) -> bool:
    """Whether a checkpoint with the same weights had the table of a layer, which then is this one's too."""
    target = batch.weights(layer)
    for twin in batch.folder.twins("weights", batch.key):
        path = batch.folder.weights(twin.name, layer)
        if path.is_file() and read_provenance(path)["fingerprint"] == batch.provenance[layer]["fingerprint"]:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            os.link(path, target)
            return True
    return False
