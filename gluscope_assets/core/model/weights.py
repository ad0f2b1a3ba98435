"""What a neuron's weights say: norms, cosines, orientation, input-output class, tokens promoted, suppressed and read.

The vectors of a neuron are those that meet the residual stream: the scales of the norms before and after the MLP are folded
into them. No text is read and no forward pass is run here, and of a checkpoint only the tensors that are needed are read.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import transformers
from torch import Tensor

from gluscope_assets.core.files import write_parquet
from gluscope_assets.core.model.checkpoint import Checkpoint
from gluscope_assets.core.model.gated_mlp import EXPERTS_AXES, GatedMLP, Projection, Stack
from gluscope_assets.core.model.loading import base_model, read_anatomy
from gluscope_assets.core.model.stored_tensors import StoredTensors
from gluscope_assets.core.progress import Progress, no_progress
from gluscope_assets.core.tables import schema
from gluscope_assets.core.tables.schema import table_of

THRESHOLD = 0.5
"""A cosine beyond it counts as ±1, one within it as 0 (Gerstner & Schütze 2025)."""

TOKENS_KEPT = 10

SCORES_AT_ONCE = 1 << 26
"""Scores of neurons x tokens that are in memory together: 256 MB."""

VOCABULARY_AT_ONCE = 1 << 14

CHANCE_QUANTILES = (0.001, 0.01, 0.05, 0.5, 0.95, 0.99, 0.999)
MISMATCHES = 8
"""How many other neurons each is paired with for the random baseline."""

COSINES = {"cos_gate_in": ("gate", "in_"), "cos_gate_out": ("gate", "out"), "cos_in_out": ("in_", "out")}
"""The two of `NeuronVectors` that each cosine is of."""


# Norms


@dataclass(frozen=True)
class Fold:
    """A norm as weights see it: norm(x) · w = (x / |x|) · fold(w) for some measure |x|."""

    scale: Tensor
    """[hidden], float32. 1 + w for norms that are written so."""
    centres: bool
    """Whether the norm subtracts the mean, as LayerNorm does; then vectors lose their mean too."""

    def of(self, vectors: Tensor) -> Tensor:
        """Fold into [rows, hidden] that read what the norm gives."""
        scaled = vectors * self.scale
        return scaled - scaled.mean(dim=1, keepdim=True) if self.centres else scaled


def fold_of(norm: Callable[[Tensor], Tensor], hidden: int) -> Fold:
    """What a norm of `hidden` elements does, measured by running it, whatever its formula (w, 1 + w, LayerNorm)."""
    with torch.inference_mode():
        ones = torch.ones(hidden)
        ones[1::2] = -1
        if hidden % 2:
            ones[-1] = 0
        both = norm(torch.stack([ones, -ones, ones + 3])[None])[0].float()
        spread = math.sqrt(hidden / int(ones.abs().sum()))
        scale = (both[0] - both[1]) / 2 * ones / spread
        if hidden % 2:
            # The last element was 0 above and takes the value of another here.
            moved = norm(ones.roll(1)[None, None])[0, 0].float() - norm(-ones.roll(1)[None, None])[0, 0].float()
            scale[-1] = (moved / 2 * ones.roll(1) / spread)[-1]
        return Fold(scale, bool(torch.allclose(both[0], both[2], atol=1e-3)))


class Reader:
    """A checkpoint's weights as this module needs them, on one device."""

    def __init__(self, checkpoint: Checkpoint, model: Any, device: str) -> None:
        self.model, self.device = model, device
        self.stored = StoredTensors(checkpoint, model)

    def vectors(self, projection: Projection, neuron_axis: Any) -> Tensor:
        """[neurons, hidden] in float32."""
        # Stored flat, the parameter itself has no axis of experts.
        has_axis = self.model.get_parameter(projection.parameter).dim() == len(EXPERTS_AXES)
        if projection.expert is not None and has_axis:
            stored = self.stored.read_expert(projection.parameter, projection.expert)
        else:
            stored = self.stored.read(projection.parameter)
        return projection.vectors(stored, neuron_axis).to(self.device).float()

    def fold(self, norm: str | None, hidden: int) -> Fold:
        """The norm at a path; that of no norm at all changes nothing."""
        if norm is None:
            return Fold(torch.ones(hidden, device=self.device), False)
        module = self.model.get_submodule(norm)
        values = {name: self.stored.read(f"{norm}.{name}").float() for name, _ in module.named_parameters()}
        fold = fold_of(lambda x: torch.func.functional_call(module, values, (x,)), hidden)
        return Fold(fold.scale.to(self.device), fold.centres)

    def embedding(self) -> Tensor:
        """[vocabulary, hidden], as stored."""
        return self.stored.read(self.stored.embedding)

    def head(self) -> Tensor | None:
        """[vocabulary, hidden] as stored, of a head of its own; None if it is tied to the embedding."""
        name = head_name(self.model.config)
        return None if name is None else self.stored.find(name)


def head_name(config: Any) -> str | None:
    """The name of the unembedding in the model that a checkpoint was saved from; None if that has no head."""
    saved = [getattr(transformers, name, None) for name in config.architectures or ()]
    for kind in (*saved, transformers.AutoModelForCausalLM):
        build = getattr(kind, "from_config", None) or getattr(kind, "_from_config", None)
        if build is None:
            continue
        try:
            with torch.device("meta"):
                model = build(config)
        except ValueError:  # there is no causal language model of this kind
            continue
        head = model.get_output_embeddings()
        names = [name for name, parameter in model.named_parameters() if head is not None and parameter is head.weight]
        if names:
            return str(names[0])
    return None


# Vectors


@dataclass(frozen=True)
class NeuronVectors:
    """The vectors of the neurons of one gated MLP in float32: [neurons, hidden]."""

    gate: Tensor
    in_: Tensor
    out: Tensor


def neuron_vectors(reader: Reader, mlp: GatedMLP) -> NeuronVectors:
    """w_gate and w_in with the norm before the MLP folded in, w_out with the norm after it, if there are any."""
    gate, in_ = reader.vectors(mlp.gate, "outputs"), reader.vectors(mlp.in_, "outputs")
    out = reader.vectors(mlp.out, "inputs")
    before, after = reader.fold(mlp.norm, gate.shape[1]), reader.fold(mlp.norm_after, out.shape[1])
    return NeuronVectors(before.of(gate), before.of(in_), out * after.scale)


def orientation(gate: Tensor, in_: Tensor) -> Tensor:
    """s = sign(w_gate · w_in) as int8 [neurons], 0 counting as +1."""
    return torch.where((gate.double() * in_.double()).sum(dim=1) < 0, -1, 1).to(torch.int8)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """The cosine of each row pair, computed in float64, as float32 [neurons]; 0 if either row is 0."""
    first, second = first.double(), second.double()
    norms = first.norm(dim=1) * second.norm(dim=1)
    return torch.where(norms > 0, (first * second).sum(dim=1) / norms.clamp(min=1e-300), 0.0).float()


def classify(gate_in: float, gate_out: float, in_out: float) -> tuple[str, bool]:
    """The input-output class and whether it is atypical (Gerstner & Schütze 2025)."""
    c, g, a = ((cos > THRESHOLD) - (cos < -THRESHOLD) for cos in (gate_in, gate_out, in_out))
    if a == 0:
        return ("proportional change", c != 0) if g else ("orthogonal output", False)
    name = "strengthening" if a > 0 else "weakening"
    return (name if g else f"conditional {name}"), c != a * g


def random_baseline(vectors: NeuronVectors) -> dict[str, dict[str, float]]:
    """What cosines would be by chance: quantiles over mismatched neurons, and in closed form.

    A neuron's vector is paired with the other vector of each of the next `MISMATCHES` neurons of its MLP. For independent
    directions in d dimensions (1 + cos) / 2 has the distribution Beta((d - 1) / 2, (d - 1) / 2), whose standard deviation
    as a cosine is 1 / √d.
    """
    neurons, hidden = vectors.gate.shape
    baseline: dict[str, dict[str, float]] = {}
    shifts = range(1, min(MISMATCHES, neurons - 1) + 1)
    for name, (first, second) in COSINES.items():
        others = [cosine(getattr(vectors, first), getattr(vectors, second).roll(shift, dims=0)) for shift in shifts]
        if others:
            quantiles = np.quantile(torch.cat(others).cpu().numpy(), CHANCE_QUANTILES)
            baseline[name] = {str(q): round(float(value), 6) for q, value in zip(CHANCE_QUANTILES, quantiles, strict=True)}
    baseline["closed form"] = closed_form(hidden)
    return baseline


def closed_form(hidden: int) -> dict[str, float]:
    """Quantiles of the cosine of two independent random directions, and its standard deviation."""
    # The angle between them has the density sin(θ)^(d - 2).
    angle = torch.linspace(math.pi, 0, 200_001, dtype=torch.float64)
    cumulated = angle.sin().clamp(min=0).pow(hidden - 2).cumsum(0)
    quantiles = {
        str(q): round(float(angle[torch.searchsorted(cumulated, q * float(cumulated[-1]))].cos()), 6) for q in CHANCE_QUANTILES
    }
    return {"std": round(1 / math.sqrt(hidden), 6), **quantiles}


# Tokens


@dataclass(frozen=True)
class Unembedding:
    """How the residual stream becomes logits, as far as it is linear."""

    tokens: Tensor
    """[vocabulary, hidden] as stored."""
    fold: Fold
    """Of the final norm."""
    scale: float
    """What logits are multiplied by."""
    facts: dict[str, object]
    """Whether the head is the embedding, its scale and its soft cap, for the tables' footer."""


def unembedding(reader: Reader, final_norm: str | None, config: Any) -> Unembedding:
    """The model's head; the embedding where they are tied.

    Logits may be multiplied (Cohere's `logit_scale`) or divided (Granite's `logits_scaling`) by a number, which scores
    are too. A soft cap (Gemma's) keeps their order: scores are those before it. A bias does not depend on the neuron.
    """
    head = reader.head()
    tokens = reader.embedding() if head is None else head
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    scale = float(getattr(text, "logit_scale", None) or 1.0) / float(getattr(text, "logits_scaling", None) or 1.0)
    cap = getattr(text, "final_logit_softcapping", None)
    facts = {"head": "tied to the embedding" if head is None else "its own", "logit_scale": scale, "logit_soft_cap": cap}
    return Unembedding(tokens, reader.fold(final_norm, tokens.shape[1]), scale, facts)


def ranked_tokens(rows: Tensor, tokens: Tensor, scale: float = 1.0) -> tuple[pa.Array, pa.Array]:
    """The tokens that each row's product with `tokens` [vocabulary, hidden] scores highest, and the ones it scores lowest.

    Two columns, an element for each of `rows` [neurons, hidden]: lists of {token, score}, the most extreme first. Scores are
    float32 products, times `scale`.
    """
    kept = min(TOKENS_KEPT, len(tokens))
    ranked: dict[bool, list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]] = {True: [], False: []}
    for tile in torch.split(rows, max(1, SCORES_AT_ONCE // min(len(tokens), VOCABULARY_AT_ONCE))):
        best: dict[bool, tuple[Tensor, Tensor]] = {}
        for first in range(0, len(tokens), VOCABULARY_AT_ONCE):
            scores = tile @ tokens[first : first + VOCABULARY_AT_ONCE].to(rows.device).float().T  # [rows of the tile, tokens]
            for largest in (True, False):
                values, indices = scores.topk(min(kept, scores.shape[1]), dim=1, largest=largest)
                indices = indices + first
                if largest in best:
                    both = torch.cat([best[largest][0], values], dim=1)
                    values, order = both.topk(min(kept, both.shape[1]), dim=1, largest=largest)
                    indices = torch.cat([best[largest][1], indices], dim=1).gather(1, order)
                best[largest] = values, indices  # [rows of the tile, kept] both
        for largest, (values, indices) in best.items():
            ranked[largest].append((indices.to(torch.int32).cpu().numpy(), (values * scale).cpu().numpy()))
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * kept)

    def column(tiles: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> pa.Array:
        token, score = (np.concatenate(arrays).reshape(-1) for arrays in zip(*tiles, strict=True))
        struct = pa.StructArray.from_arrays([pa.array(token), pa.array(score)], names=["token", "score"])
        return pa.ListArray.from_arrays(offsets, struct)

    return column(ranked[True]), column(ranked[False])


# Tables


def weights_table(mlp: GatedMLP, first: int, vectors: NeuronVectors, embedding: Tensor, head: Unembedding) -> pa.Table:
    """One row a neuron of an MLP, whose neurons are `first` and following of their layer."""
    cosines = {
        name: cosine(getattr(vectors, first_of), getattr(vectors, second_of)).cpu().numpy()
        for name, (first_of, second_of) in COSINES.items()
    }
    classes = [classify(*map(float, row)) for row in zip(*cosines.values(), strict=True)]
    neurons = len(vectors.out)
    lists: dict[str, pa.Array] = {}
    for high, low, rows, tokens, scale in (
        ("promoted", "suppressed", head.fold.of(vectors.out), head.tokens, head.scale),
        ("gate_positive", "gate_negative", vectors.gate, embedding, 1.0),
        ("in_positive", "in_negative", vectors.in_, embedding, 1.0),
    ):
        lists[high], lists[low] = ranked_tokens(rows, tokens, scale)
    return table_of(
        schema.WEIGHTS,
        {
            "layer": np.full(neurons, mlp.layer, dtype=np.int32),
            "neuron": np.arange(first, first + neurons, dtype=np.int32),
            "mlp": [mlp.name] * neurons,
            "expert": [mlp.expert] * neurons,
            "index": np.arange(neurons, dtype=np.int32),
            "orientation": orientation(vectors.gate, vectors.in_).cpu().numpy(),
            **cosines,
            "norm_gate": vectors.gate.norm(dim=1).cpu().numpy(),
            "norm_in": vectors.in_.norm(dim=1).cpu().numpy(),
            "norm_out": vectors.out.norm(dim=1).cpu().numpy(),
            "class": [name for name, _ in classes],
            "atypical": [atypical for _, atypical in classes],
            **lists,
        },
    )


def write_neuron_weights(
    checkpoint: Checkpoint,
    layers: Sequence[int],
    destination: Callable[[int], Path],
    provenance: Mapping[str, object],
    stack: Stack | None = None,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> dict[int, pa.Table]:
    """Write `destination(layer)` for each of `layers` and give their tables. Progress counts layers.

    InputError as `read_anatomy` and `StoredTensors`.
    """
    anatomy = read_anatomy(checkpoint, stack)
    model = base_model(checkpoint)
    reader = Reader(checkpoint, model, device)
    embedding = reader.embedding()
    head = unembedding(reader, anatomy.final_norm, model.config)
    written: dict[int, pa.Table] = {}
    for done, layer in enumerate(layers, start=1):
        tables, baselines, first = [], {}, 0
        for mlp in (mlp for mlp in anatomy.mlps if mlp.layer == layer):
            vectors = neuron_vectors(reader, mlp)
            tables.append(weights_table(mlp, first, vectors, embedding, head))
            baselines[mlp.name if mlp.expert is None else f"{mlp.name}, expert {mlp.expert}"] = random_baseline(vectors)
            first += mlp.width
        table = pa.concat_tables(tables)
        footer = {**provenance, **head.facts, "layer": layer, "random_baseline": baselines}
        write_parquet(table, destination(layer), footer)
        written[layer] = table
        progress(done, len(layers))
    return written
