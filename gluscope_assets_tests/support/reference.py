"""Brute force: the semantics of a quadrant aggregate as plain loops in float64, and small models to try them on.

Nothing here is imported from the code under test but names and containers.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from gluscope_assets.core.collect import job as collect_module
from gluscope_assets.core.collect.forward import Batch
from gluscope_assets.core.collect.job import Collection
from gluscope_assets.core.collect.reduction import LayerState
from gluscope_assets.core.collect.shard_state import ShardState
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.model.anatomy import look_through
from gluscope_assets.core.model.checkpoint import Checkpoint
from gluscope_assets.core.model.gated_mlp import Activations, GatedMLP, Projection, Stack
from gluscope_assets.core.model.loading import ModelShape
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets.core.paths import LayerShards
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS
from gluscope_assets.core.tables.aggregate import Aggregate, merge, read_aggregate

Recorded = dict[str, list[npt.NDArray[np.float32]]]
"""gate, in, act and post of every text, each [positions, neurons]; NaN where a position is not routed to an expert."""


@dataclass
class Expected:
    """What brute force finds for one layer."""

    count: npt.NDArray[np.int64]
    zero: npt.NDArray[np.int64]
    routed: npt.NDArray[np.int64]
    sum: npt.NDArray[np.float64]
    sum_of_squares: npt.NDArray[np.float64]
    largest: npt.NDArray[np.float64]
    lists: dict[tuple[str, str, int], list[tuple[float, int, int]]]
    """(value, text, position) by (quadrant, activation, neuron)."""


def brute_force(corpus: TokenizedCorpus, recorded: Recorded, options: CollectionOptions) -> Expected:
    """Every rule of the semantics, one position at a time."""
    neurons = recorded["gate"][0].shape[1]
    cells = (len(QUADRANTS), len(ACTIVATIONS), neurons)
    expected = Expected(
        np.zeros((len(QUADRANTS), neurons), np.int64), np.zeros(neurons, np.int64), np.zeros(neurons, np.int64),
        np.zeros(cells), np.zeros(cells), np.zeros(cells), {},
    )  # fmt: skip
    for neuron in range(neurons):
        for text in range(corpus.n_texts):
            for position, token in enumerate(corpus.tokens_of(text)):
                if token in corpus.special_token_ids and not options.count_special_tokens:
                    continue
                values = {name: float(recorded[name][text][position, neuron]) for name in ACTIVATIONS}
                if np.isnan(values["gate"]):
                    continue
                expected.routed[neuron] += 1
                if values["gate"] == 0 or values["in"] == 0:
                    expected.zero[neuron] += 1
                    continue
                quadrant = f"gate{'+' if values['gate'] > 0 else '-'}_in{'+' if values['in'] > 0 else '-'}"
                q = QUADRANTS.index(quadrant)
                expected.count[q, neuron] += 1
                for a, name in enumerate(ACTIVATIONS):
                    expected.sum[q, a, neuron] += values[name]
                    expected.sum_of_squares[q, a, neuron] += values[name] ** 2
                    expected.largest[q, a, neuron] = max(expected.largest[q, a, neuron], abs(values[name]))
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
    """Counts, largest values, lists and windows exactly; sums to 1e-12 relative."""
    assert np.array_equal(aggregate.count, expected.count)
    assert np.array_equal(aggregate.zero, expected.zero)
    assert np.array_equal(aggregate.routed, expected.routed)
    np.testing.assert_allclose(aggregate.sum, expected.sum, rtol=1e-12, atol=1e-50)
    np.testing.assert_allclose(aggregate.sum_of_squares, expected.sum_of_squares, rtol=1e-12, atol=1e-90)
    assert np.array_equal(aggregate.largest, expected.largest)
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
                        wanted = to_half(recorded[name][text][at, neuron]) if inside else 0
                        assert stored == wanted or (np.isnan(stored) and np.isnan(wanted)), where


def to_half(value: np.float32) -> float:
    """float16 of a value, except that a non-zero never becomes 0 and what is too large stays."""
    if np.isnan(value):
        return float("nan")
    with np.errstate(over="ignore"):
        half = np.float16(value)
    if half == 0 and value != 0:
        return float(np.copysign(np.float16(2.0**-24), value))
    return float(half) if np.isfinite(half) else float(value)


# Small models and corpora


def mlp_of(width: int, layer: int = 0) -> GatedMLP:
    """A gated MLP with separate projections, as Llama has it."""
    part = Projection("gate", (width, 1), False, range(width))
    return GatedMLP(layer, f"layers.{layer}.mlp", None, f"layers.{layer}.mlp", part, part, part, "silu", False)


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
        content_hash=hashlib.sha256(str((texts, pack_texts, shard_packs, special)).encode()).hexdigest(),
    )


def cut(corpus: TokenizedCorpus, shards: int) -> TokenizedCorpus:
    """The same packs in so many shards, or fewer if there are fewer packs."""
    packs = int(corpus.packs[-1]) + 1
    cut = (corpus.packs * min(shards, packs) // packs).astype(np.int32)
    return replace(corpus, shards=cut, content_hash=f"{corpus.content_hash} in {shards} shards")


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


class ModularExperts(nn.Module):
    """Two layers whose experts are modules of their own, with a shared expert beside them. A token goes to two of three."""

    def __init__(self, seed: int, vocabulary: int = 30, hidden: int = 8, width: int = 5, experts: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def linear(outputs: int, inputs: int) -> nn.Linear:
            return _linear(torch.randn(outputs, inputs, generator=generator))

        def expert(neurons: int) -> nn.Module:
            return _Expert(linear(neurons, hidden), linear(neurons, hidden), linear(hidden, neurons))

        self.embed_tokens = nn.Embedding(vocabulary, hidden)
        self.embed_tokens.weight.data = torch.randn(vocabulary, hidden, generator=generator)
        blocks = [
            _ModularBlock(linear(experts, hidden), [expert(width) for _ in range(experts)], expert(width + 2)) for _ in range(2)
        ]
        self.layers = nn.ModuleList(blocks)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> Tensor:
        hidden: Tensor = self.embed_tokens(input_ids)
        for layer in self.layers:
            hidden = hidden + layer.mlp(hidden)
        return hidden


class _Expert(nn.Module):
    def __init__(self, w1: nn.Linear, w3: nn.Linear, w2: nn.Linear) -> None:
        super().__init__()
        self.w1, self.w3, self.w2 = w1, w3, w2

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))
        return output


class _ModularBlock(nn.Module):
    def __init__(self, router: nn.Linear, experts: Sequence[nn.Module], shared: nn.Module) -> None:
        super().__init__()
        self.mlp = _Mixture(router, experts, shared)


class _Mixture(nn.Module):
    def __init__(self, router: nn.Linear, experts: Sequence[nn.Module], shared: nn.Module) -> None:
        super().__init__()
        self.router, self.experts, self.shared_expert = router, nn.ModuleList(experts), shared

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.view(-1, hidden.shape[-1])
        weight, chosen = self.router(flat).softmax(dim=-1).topk(2, dim=-1)
        output = self.shared_expert(flat)
        for number, expert in enumerate(self.experts):
            token, place = torch.where(chosen == number)
            output.index_add_(0, token, expert(flat[token]) * weight[token, place, None])
        return output.view(hidden.shape)


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = weight.float().contiguous()
    return linear


@contextmanager
def recording(layer: int, corpus: TokenizedCorpus) -> Iterator[Recorded]:
    """Record the activations of one layer that any collection meanwhile is given to reduce, by text."""
    lengths = np.diff(corpus.offsets)
    recorded: Recorded = {name: [np.zeros((length, 0), np.float32) for length in lengths] for name in ACTIVATIONS}
    first: dict[GatedMLP, int] = {}
    reduce, start = LayerState.reduce, ShardState.__init__

    def begin(state: ShardState, *arguments: Any) -> None:
        start(state, *arguments)
        for mlp in state.layers.get(layer, []):
            if mlp not in first:
                first[mlp] = sum(other.width for other in first)
                for name, text in itertools.product(ACTIVATIONS, range(corpus.n_texts)):
                    unseen = np.full((lengths[text], mlp.width), np.nan, np.float32)
                    recorded[name][text] = np.concatenate([recorded[name][text], unseen], axis=1)

    def record(state: LayerState, activations: Activations, batch: Batch, tokens: Tensor, rows: Tensor) -> None:
        if state.mlp.layer == layer:
            neurons = slice(first[state.mlp], first[state.mlp] + state.mlp.width)
            act = state.mlp.by_name(activations)["act"]
            whole = (activations.gate, activations.in_, act, activations.post)
            texts = np.repeat(batch.text, batch.length)
            for name, tensor in zip(ACTIVATIONS, whole, strict=True):
                for text, position, values in zip(texts, batch.position, tensor.float().numpy(), strict=True):
                    recorded[name][text][position, neurons] = values
        reduce(state, activations, batch, tokens, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LayerState, "reduce", record)
        patch.setattr(ShardState, "__init__", begin)
        yield recorded


def collect_in_memory(
    model: nn.Module,
    corpus: TokenizedCorpus,
    options: CollectionOptions,
    folder: Path,
    layer: int = 0,
    stack: Stack | None = None,
    beside: tuple[int, ...] = (),
) -> list[Aggregate]:
    """The shards of one layer, through the files that `collect` writes; the layers `beside` are collected in the same pass."""
    shape = ModelShape(look_through(model, stack).mlps, vocabulary=1 << 30)
    collection = Collection(
        checkpoint=Checkpoint("table", Path("table"), "0" * 64),
        dtype="float32",
        corpus=corpus.path,
        layers=tuple(sorted((layer, *beside))),
        model_layers=shape.layers,
        stack=stack,
        options=options,
        root=folder,
        provenance={"fingerprint": f"{corpus.content_hash}, {options}, {id(model)}"},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect_module, "check_checkpoint", lambda checkpoint, layers, stack: shape)
        patch.setattr(collect_module, "load_model", lambda checkpoint, dtype, device, device_map: model)
        patch.setattr(collect_module.TokenizedCorpus, "open", lambda path: corpus)
        collect_module.collect(collection, ["cpu"])
    return [read_aggregate(LayerShards(folder, layer).shard(shard)) for shard in range(corpus.n_shards)]


def collect_merged(
    model: nn.Module,
    corpus: TokenizedCorpus,
    options: CollectionOptions,
    folder: Path,
    layer: int = 0,
    stack: Stack | None = None,
    beside: tuple[int, ...] = (),
) -> Aggregate:
    """The merged aggregate of one layer."""
    return reduce(merge, collect_in_memory(model, corpus, options, folder, layer, stack, beside))
