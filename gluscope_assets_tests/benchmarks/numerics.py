"""What narrower numbers do to the results: bfloat16 in the forward pass, int8 in the windows.

Run by `make numerics`, for the demo's last checkpoint and the real model. It prints Markdown tables.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gluscope_assets.core.collect.forward import Forward
from gluscope_assets.core.collect.job import Collection, collect
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.corpus.tokenize import tokenize_corpus
from gluscope_assets.core.model.anatomy import look_through
from gluscope_assets.core.model.checkpoint import Checkpoint, resolve_checkpoint
from gluscope_assets.core.model.gated_mlp import Activations, GatedMLP
from gluscope_assets.core.model.loading import load_model, read_shape
from gluscope_assets.core.options import CheckpointOptions, CollectionOptions, CorpusOptions
from gluscope_assets.core.paths import LayerShards
from gluscope_assets.core.tables.aggregate import Aggregate, read_aggregate
from gluscope_assets.study.study import find_studies
from gluscope_assets_tests.benchmarks.collection import DATA, table


def quadrants(checkpoint: Checkpoint, dtype: str, corpus: TokenizedCorpus) -> list[npt.NDArray[np.int8]]:
    """The quadrant of every counted position, [positions, neurons], layer by layer; -1 for none."""
    model = load_model(checkpoint, dtype, "cpu")
    mlps = look_through(model).mlps
    found: dict[int, list[npt.NDArray[np.int8]]] = {mlp.layer: [] for mlp in mlps}
    with Forward(model, mlps) as forward:
        for pack in corpus.packs_of_shard(0):
            for batch in forward.batches(corpus, pack, False):

                def keep(
                    block: str, computed: list[tuple[GatedMLP, Activations]], counted: npt.NDArray[np.bool_] = batch.counted
                ) -> None:
                    ((mlp, activations),) = computed
                    gate, in_ = activations.gate.float().numpy()[counted], activations.in_.float().numpy()[counted]
                    number = (gate < 0) * 2 + (in_ < 0)
                    found[mlp.layer].append(np.where((gate == 0) | (in_ == 0), -1, number).astype(np.int8))

                forward.run(batch, keep)
    return [np.concatenate(parts) for parts in found.values()]


def collected(checkpoint: Checkpoint, dtype: str, corpus: TokenizedCorpus, root: Path) -> list[Aggregate]:
    """The aggregates of all layers."""
    layers = read_shape(checkpoint).layers
    collection = Collection(
        checkpoint=checkpoint, dtype=dtype, corpus=corpus.path, layers=layers, model_layers=layers,
        options=CollectionOptions(), root=root, provenance={"fingerprint": "numerics"},
    )  # fmt: skip
    collect(collection, ["cpu"])
    return [read_aggregate(LayerShards(root, layer).shard(0)) for layer in layers]


def half_precision(name: str, wide: list[Aggregate], narrow: list[Aggregate], changed: list[float]) -> list[str]:
    """What bfloat16 changes: positions, counts, lists."""
    count = [np.concatenate([aggregate.count for aggregate in part], axis=1) for part in (wide, narrow)]
    moved = np.abs(count[1] - count[0]) / np.maximum(count[0], 1)
    text = [np.concatenate([aggregate.text for aggregate in part], axis=1) for part in (wide, narrow)]
    shared = [
        len(set(a[a >= 0]) & set(b[b >= 0])) / max(1, (a >= 0).sum())
        for a, b in zip(text[0].reshape(-1, text[0].shape[2]), text[1].reshape(-1, text[0].shape[2]), strict=True)
    ]
    lists = np.reshape(shared, text[0].shape[:2])
    act = [7, 11]
    others = [number for number in range(lists.shape[0]) if number not in act]
    return [
        name, f"{np.mean(changed):.2%}", f"{np.median(moved):.2%}", f"{lists[others].mean():.1%}", f"{lists[act].mean():.1%}",
    ]  # fmt: skip


def eight_bits(windows: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Each window on its own scale, in steps of 1/127 of its largest |value|; a non-zero never becomes 0."""
    scale = np.abs(windows.astype(np.float32)).max(axis=-1, keepdims=True) / 127
    steps = np.rint(windows / np.where(scale == 0, 1, scale))
    steps = np.where((steps == 0) & (windows != 0), np.sign(windows), steps)
    return steps.astype(np.int8), scale


def stored_bytes(cells: npt.NDArray[np.generic], folder: Path) -> int:
    """Bytes of an array in Parquet, as the examples are stored."""
    path = folder / "cells.parquet"
    pq.write_table(pa.table({"cells": cells.reshape(-1)}), path, compression="zstd", compression_level=3, use_dictionary=False)
    return path.stat().st_size


def eight_bit_windows(name: str, aggregates: list[Aggregate], folder: Path) -> list[str]:
    """Bytes a neuron and error of windows in float16 and int8."""
    sizes, errors = np.zeros(2), []
    for aggregate in aggregates:
        held = aggregate.text >= 0
        for stored in (aggregate.window_gate, aggregate.window_in):
            windows = stored[held]
            steps, scale = eight_bits(windows)
            sizes += [stored_bytes(windows, folder), stored_bytes(steps, folder) + scale.nbytes / 2]
            errors.append((np.abs(steps * scale - windows) / np.maximum(scale * 127, 1e-30)).mean())
            assert ((steps == 0) == (windows == 0)).all()
    neurons = sum(aggregate.neurons for aggregate in aggregates)
    return [name, *(f"{size / neurons / 1e3:.1f}" for size in sizes), f"{np.mean(errors):.2%}"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--texts", type=int, default=400)
    texts = parser.parse_args().texts
    demo = find_studies()["demo"].model.checkpoints[-1]
    subjects = {"demo, last checkpoint": (demo, CorpusOptions(source="standard_library", max_texts=texts))}
    if DATA.exists():
        source = CorpusOptions(source="tokens", path=DATA / "oracle" / "texts.parquet", max_texts=texts)
        subjects["real model"] = (CheckpointOptions(name="stories260k", path=DATA / "stories260K"), source)
    halves, eights = [], []
    for name, (options, source) in subjects.items():
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = resolve_checkpoint(options)
            corpus = tokenize_corpus(source, checkpoint, Path(folder) / "texts.parquet", {})
            pairs = zip(*(quadrants(checkpoint, dtype, corpus) for dtype in ("float32", "bfloat16")), strict=True)
            changed = [float((a != b).mean()) for a, b in pairs]
            wide, narrow = (collected(checkpoint, dtype, corpus, Path(folder) / dtype) for dtype in ("float32", "bfloat16"))
            halves.append(half_precision(name, wide, narrow, changed))
            eights.append(eight_bit_windows(name, wide, Path(folder)))
    print(f"torch {torch.__version__}, {texts} texts\n")
    head = [
        "bfloat16 against float32",
        "positions that change quadrant",
        "counts move (median)",
        "lists shared",
        "act lists shared",
    ]
    print(table(head, halves) + "\n")
    print(table(["windows", "KB a neuron, float16", "KB a neuron, int8", "mean error of int8, of the largest value"], eights))


if __name__ == "__main__":
    main()
