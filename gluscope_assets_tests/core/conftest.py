"""The real model's aggregates, collected once for the tests that compare with the paper's own pipeline."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from gluscope_assets.core.collect.job import Collection, collect
from gluscope_assets.core.collect.shards import merge_shards
from gluscope_assets.core.corpus.tokenize import tokenize_corpus
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.core.options import CheckpointOptions, CollectionOptions, CorpusOptions
from gluscope_assets_tests.conftest import shared_folder

DATA = Path(os.environ.get("GLUSCOPE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
LAYERS, NEURONS, TOKENS = 5, 172, 482_591
OPTIONS = CollectionOptions(count_special_tokens=True, sample_positions=256)

Numbers = npt.NDArray[np.generic]


def carried(count: Numbers, other: Numbers, largest: Numbers) -> npt.NDArray[np.float64]:
    """How far two means may be apart because tokens changed quadrant, as [quadrants, neurons].

    The forward pass rounds by processor and batch shape: a gate or in within rounding of 0 may change sign, and its token takes
    its other values along. `count` and `other` are [quadrants, neurons]; no |value| of a neuron is above its `largest`.
    """
    moved = np.abs(np.rint(count - other)).sum(axis=0)
    return np.asarray(2 * moved * largest / np.minimum(count, other))


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts.parquet and the aggregates merged-0, merged-1, … of the real model.

    Over all 2,000 texts, BOS counted as the paper does, cut into 3 shards. Shared: tests must not change it.
    """
    with shared_folder(tmp_path_factory, "oracle") as (folder, is_new):
        if is_new:
            _collect(folder)
    return folder


def _collect(folder: Path) -> None:
    checkpoint = resolve_checkpoint(CheckpointOptions(name="stories260k", path=DATA / "stories260K"))
    source = CorpusOptions(source="tokens", path=DATA / "oracle" / "texts.parquet", shard_packs=40)
    corpus = tokenize_corpus(source, checkpoint, folder / "texts.parquet", {})
    assert (corpus.n_texts, corpus.n_tokens, corpus.n_shards) == (2000, TOKENS, 3)
    collection = Collection(
        checkpoint=checkpoint,
        dtype="float32",
        corpus=corpus.path,
        layers=tuple(range(LAYERS)),
        model_layers=tuple(range(LAYERS)),
        options=OPTIONS,
        root=folder,
        provenance={"study": "oracle", "fingerprint": "oracle"},
    )
    collect(collection, ["cpu"])
    for layer in range(LAYERS):
        merge_shards(folder, layer, folder / f"merged-{layer}", {})
