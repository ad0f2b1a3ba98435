"""Brute force: the semantics of a quadrant aggregate as plain loops in float64, and small models to try them on.

Nothing here is imported from the code under test but names and containers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from gluscope_assets.core import collect as collect_module
from gluscope_assets.core.aggregate import Aggregate, merge_all, read_aggregate, shard_folder
from gluscope_assets.core.checkpoint import Checkpoint, ModelShape
from gluscope_assets.core.corpus import TokenizedCorpus
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS

Recorded = dict[str, list[npt.NDArray[np.float32]]]
"""gate, in, act and post of every text, each [positions, neurons]."""


@dataclass
class Expected:
    """What brute force finds for one layer."""

    count: npt.NDArray[np.int64]
    zero: npt.NDArray[np.int64]
    sum: npt.NDArray[np.float64]
    sum_of_squares: npt.NDArray[np.float64]
    minimum: npt.NDArray[np.float64]
    maximum: npt.NDArray[np.float64]
    lists: dict[tuple[str, str, int], list[tuple[float, int, int]]]
    """(value, text, position) by (quadrant, activation, neuron)."""


def brute_force(corpus: TokenizedCorpus, recorded: Recorded, options: CollectionOptions) -> Expected:
    """Every rule of the semantics, one position at a time."""
    neurons = recorded["gate"][0].shape[1]
    cells = (len(QUADRANTS), len(ACTIVATIONS), neurons)
    expected = Expected(
        np.zeros((len(QUADRANTS), neurons), np.int64), np.zeros(neurons, np.int64), np.zeros(cells), np.zeros(cells),
        np.full(cells, np.inf), np.full(cells, -np.inf), {},
    )  # fmt: skip
    for neuron in range(neurons):
        for text in range(corpus.n_texts):
            for position, token in enumerate(corpus.tokens_of(text)):
                if token in corpus.special_token_ids and not options.count_special_tokens:
                    continue
                values = {name: float(recorded[name][text][position, neuron]) for name in ACTIVATIONS}
                if values["gate"] == 0 or values["in"] == 0:
                    expected.zero[neuron] += 1
                    continue
                quadrant = f"gate{'+' if values['gate'] > 0 else '-'}_in{'+' if values['in'] > 0 else '-'}"
                q = QUADRANTS.index(quadrant)
                expected.count[q, neuron] += 1
                for a, name in enumerate(ACTIVATIONS):
                    expected.sum[q, a, neuron] += values[name]
                    expected.sum_of_squares[q, a, neuron] += values[name] ** 2
                    expected.minimum[q, a, neuron] = min(expected.minimum[q, a, neuron], values[name])
                    expected.maximum[q, a, neuron] = max(expected.maximum[q, a, neuron], values[name])
                    if (quadrant, name) in LISTS:
                        expected.lists.setdefault((quadrant, name, neuron), []).append((values[name], text, position))
    for (_, name, neuron), entries in expected.lists.items():

        def rank(entry: tuple[float, int, int], name: str = name, neuron: int = neuron) -> tuple[float, float, int, int]:
            value, text, position = entry
            tie = abs(float(recorded["post"][text][position, neuron])) if name == "act" else 0.0
            return (-abs(value), -tie, text, position)

        best: dict[int, tuple[float, int, int]] = {}
        for entry in sorted(entries, key=rank):
            best.setdefault(entry[1], entry)
        entries[:] = sorted(best.values(), key=rank)[: options.examples]
    return expected


def assert_agrees(aggregate: Aggregate, expected: Expected, recorded: Recorded, corpus: TokenizedCorpus) -> None:
    """Counts, extremes, lists and windows exactly; sums to 1e-6 relative."""
    assert np.array_equal(aggregate.count, expected.count)
    assert np.array_equal(aggregate.zero, expected.zero)
    np.testing.assert_allclose(aggregate.sum, expected.sum, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(aggregate.sum_of_squares, expected.sum_of_squares, rtol=1e-6, atol=1e-30)
    assert np.array_equal(aggregate.minimum, expected.minimum)
    assert np.array_equal(aggregate.maximum, expected.maximum)
    width = aggregate.window_token.shape[-1]
    for number, (quadrant, activation) in enumerate(LISTS):
        for neuron in range(aggregate.neurons):
            held = aggregate.text[number, neuron] >= 0
            parts = (aggregate.value, aggregate.text, aggregate.position)
            found = list(zip(*(part[number, neuron][held].tolist() for part in parts), strict=True))
            assert found == expected.lists.get((quadrant, activation, neuron), []), (quadrant, activation, neuron)
            for place, (_, text, position) in enumerate(found):
                token = corpus.tokens_of(text)
                for cell in range(width):
                    at = position - aggregate.window_before + cell
                    inside = 0 <= at < len(token)
                    where = (number, neuron, place, cell)
                    assert aggregate.window_token[where] == (token[at] if inside else -1)
                    for name in ("gate", "in"):
                        stored = getattr(aggregate, f"window_{name}")[where]
                        assert stored == (to_half(recorded[name][text][at, neuron]) if inside else 0)


def to_half(value: np.float32) -> float:
    """float16 of a value, except that a non-zero never becomes 0 and what is too large stays."""
    with np.errstate(over="ignore"):
        half = np.float16(value)
    if half == 0 and value != 0:
        return float(np.copysign(np.float16(2.0**-24), value))
    return float(half) if np.isfinite(half) else float(value)


# Small models and corpora


def corpus_of(
    texts: Sequence[Sequence[int]], pack_texts: int = 3, shard_packs: int = 1000, special: tuple[int, ...] = (0,)
) -> TokenizedCorpus:
    """A corpus in memory with `pack_texts` texts a pack."""
    packs = (np.arange(len(texts)) // pack_texts).astype(np.int32)
    return TokenizedCorpus(
        path=Path("texts.parquet"),
        token=np.array([token for text in texts for token in text], dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64),
        packs=packs,
        shards=packs // np.int32(shard_packs),
        starts=np.zeros(len(texts), np.int64),
        documents=pa.chunked_array([pa.array([f"text {number}" for number in range(len(texts))])]),
        special_token_ids=special,
        content_hash="0",
    )


def cut(corpus: TokenizedCorpus, shards: int) -> TokenizedCorpus:
    """The same packs in so many shards, or fewer if there are fewer packs."""
    packs = int(corpus.packs[-1]) + 1
    return replace(corpus, shards=(corpus.packs * min(shards, packs) // packs).astype(np.int32))


class TableModel(nn.Module):
    """One gated MLP whose gate and in are looked up by token: gate[token, neuron], exactly."""

    def __init__(self, gate: Tensor, in_: Tensor, act: nn.Module | None = None) -> None:
        super().__init__()
        layer = nn.Module()
        layer.mlp = nn.Module()
        layer.mlp.gate_proj, layer.mlp.up_proj = _linear(gate.T), _linear(in_.T)
        layer.mlp.act_fn = act or nn.SiLU()
        layer.mlp.down_proj = _linear(torch.ones(1, gate.shape[1]))
        self.layers = nn.ModuleList([layer])
        self.tokens = gate.shape[0]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> Tensor:
        mlp = self.layers[0].mlp
        hot = nn.functional.one_hot(input_ids, self.tokens).float()
        output: Tensor = mlp.down_proj(mlp.act_fn(mlp.gate_proj(hot)) * mlp.up_proj(hot))
        return output


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = weight.float().contiguous()
    return linear


@contextmanager
def recording(model: nn.Module, layer: int, corpus: TokenizedCorpus) -> Iterator[Recorded]:
    """Record gate, in, act and post of one layer, text by text, whenever `model` runs the corpus's texts in order."""
    recorded: Recorded = {name: [] for name in ACTIVATIONS}
    mlp = next(module for path, module in model.named_modules() if path.endswith(f"layers.{layer}.mlp"))
    acts: list[Tensor] = []

    def keep(name: str, tensor: Tensor) -> None:
        for row in tensor.detach().float().numpy():
            recorded[name].append(row[: len(corpus.tokens_of(len(recorded[name])))].copy())

    def keep_post(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # The collection may call act_fn again, after this.
        keep("act", acts[-1])
        keep("post", inputs[0])

    handles = [
        mlp.gate_proj.register_forward_hook(lambda module, inputs, output: keep("gate", output)),
        mlp.up_proj.register_forward_hook(lambda module, inputs, output: keep("in", output)),
        mlp.act_fn.register_forward_hook(lambda module, inputs, output: acts.append(output)),
        mlp.down_proj.register_forward_pre_hook(keep_post, prepend=True),
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def collect_in_memory(
    model: nn.Module, corpus: TokenizedCorpus, options: CollectionOptions, folder: Path, layer: int = 0
) -> list[Aggregate]:
    """The shards of one layer, through the files that `collect` writes."""
    width = next(module for path, module in model.named_modules() if path.endswith("down_proj")).in_features
    shape = ModelShape(layers=1, width=width, activation="silu", vocabulary=1 << 30)
    checkpoint = Checkpoint("table", Path("table"), "0" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect_module, "check_checkpoint", lambda checkpoint, layers: shape)
        patch.setattr(collect_module, "load_model", lambda checkpoint, dtype, device: model)
        collect_module.collect(
            checkpoint, "float32", corpus, [layer], 1, options, lambda number: folder / f"layer-{number}", {}, "cpu"
        )
    return [read_aggregate(shard_folder(folder / f"layer-{layer}", shard)) for shard in range(corpus.n_shards)]


def collect_merged(
    model: nn.Module, corpus: TokenizedCorpus, options: CollectionOptions, folder: Path, layer: int = 0
) -> Aggregate:
    """The merged aggregate of one layer."""
    return merge_all(collect_in_memory(model, corpus, options, folder, layer))
