"""What a neuron's weights say: cosines, orientation, input-output class, tokens promoted, suppressed and read.

w_gate and w_in are taken with the scale of the norm before the MLP folded in, tokens are scored through the final norm's
scale. No text is read and no forward pass is run here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors import safe_open
from torch import Tensor, nn

from gluscope_assets.core.checkpoint import Checkpoint, load_model
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import write_parquet
from gluscope_assets.core.gated_mlp import GatedMLP, find_gated_mlps
from gluscope_assets.core.progress import Progress, no_progress

THRESHOLD = 0.5
"""A cosine beyond it counts as ±1, one within it as 0 (Gerstner & Schütze 2025)."""

TOKENS_KEPT = 10
NEURONS_AT_ONCE = 2048

MLP_NORMS = ("pre_feedforward_layernorm", "post_attention_layernorm")
"""Names of the norm before the MLP, beside it in its layer."""


@dataclass(frozen=True)
class NeuronVectors:
    """One layer's weights in float32, one row a neuron: [neurons, hidden]."""

    gate: Tensor
    in_: Tensor
    out: Tensor


def neuron_vectors(model: nn.Module, mlp: GatedMLP) -> NeuronVectors:
    """w_gate and w_in with the norm's scale folded in, and w_out."""
    scale = _scale(_find_norm(model, mlp), mlp.path)
    return NeuronVectors(
        gate=mlp.gate.weight.detach().float() * scale,
        in_=mlp.up.weight.detach().float() * scale,
        out=mlp.down.weight.detach().float().T.contiguous(),
    )


def _find_norm(model: nn.Module, mlp: GatedMLP) -> nn.Module | None:
    layer = model.get_submodule(mlp.path.rpartition(".")[0])
    return next((getattr(layer, name) for name in MLP_NORMS if hasattr(layer, name)), None)


def _scale(norm: nn.Module | None, path: str) -> Tensor:
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, Tensor):
        raise InputError(f"No norm with a weight stands before {path}; its layer needs one of {', '.join(MLP_NORMS)}.")
    return weight.detach().float()


def unembedding(checkpoint: Checkpoint, model: nn.Module) -> Tensor:
    """[vocabulary, hidden] in float32, the final norm's scale folded in: the head's own weight, or the embedding if tied."""
    head = _stored_tensor(checkpoint, "lm_head.weight")
    if head is None:
        head = embedding_of(model)
    return head.float() * _scale(getattr(model, "norm", None), "the head")


def embedding_of(model: nn.Module) -> Tensor:
    """[vocabulary, hidden], in the model's dtype."""
    weight: Tensor = model.get_input_embeddings().weight  # type: ignore[operator]
    return weight.detach()


def _stored_tensor(checkpoint: Checkpoint, name: str) -> Tensor | None:
    for path in sorted(checkpoint.folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118 - the file is no dict
                tensor: Tensor = file.get_tensor(name)
                return tensor
    return None


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


def weights_table(layer: int, vectors: NeuronVectors, embedding: Tensor, head: Tensor) -> pa.Table:
    """One row a neuron; embedding and head are [vocabulary, hidden] in float32."""
    cosines = {
        "cos_gate_in": cosine(vectors.gate, vectors.in_).numpy(),
        "cos_gate_out": cosine(vectors.gate, vectors.out).numpy(),
        "cos_in_out": cosine(vectors.in_, vectors.out).numpy(),
    }
    classes = [classify(*map(float, row)) for row in zip(*cosines.values(), strict=True)]
    neurons = len(classes)
    lists: dict[str, pa.Array] = {}
    for high, low, rows, tokens in (
        ("promoted", "suppressed", vectors.out, head),
        ("gate_positive", "gate_negative", vectors.gate, embedding),
        ("in_positive", "in_negative", vectors.in_, embedding),
    ):
        lists[high], lists[low] = _ranked_tokens(rows, tokens)
    return pa.table(
        {
            "layer": pa.array(np.full(neurons, layer, dtype=np.int32)),
            "neuron": pa.array(np.arange(neurons, dtype=np.int32)),
            "orientation": pa.array(orientation(vectors.gate, vectors.in_).numpy()),
            **{name: pa.array(values) for name, values in cosines.items()},
            "norm_gate": pa.array(vectors.gate.norm(dim=1).numpy()),
            "norm_in": pa.array(vectors.in_.norm(dim=1).numpy()),
            "norm_out": pa.array(vectors.out.norm(dim=1).numpy()),
            "class": pa.array([name for name, _ in classes]),
            "atypical": pa.array([atypical for _, atypical in classes]),
            **lists,
        }
    )


def _ranked_tokens(rows: Tensor, tokens: Tensor) -> tuple[pa.Array, pa.Array]:
    """The tokens that each row's product with `tokens` scores highest, and those it scores lowest."""
    kept = min(TOKENS_KEPT, len(tokens))
    parts: list[list[npt.NDArray[np.generic]]] = [[], [], [], []]
    for tile in torch.split(rows, NEURONS_AT_ONCE):
        scores = tile @ tokens.T
        for place, (values, indices) in enumerate((scores.topk(kept), scores.topk(kept, largest=False))):
            parts[2 * place].append(indices.to(torch.int32).numpy())
            parts[2 * place + 1].append(values.numpy())
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * kept)
    high_token, high_score, low_token, low_score = (np.concatenate(part).reshape(-1) for part in parts)

    def column(token: npt.NDArray[np.generic], score: npt.NDArray[np.generic]) -> pa.Array:
        struct = pa.StructArray.from_arrays([pa.array(token), pa.array(score)], names=["token", "score"])
        return pa.ListArray.from_arrays(offsets, struct)

    return column(high_token, high_score), column(low_token, low_score)


def write_neuron_weights(
    checkpoint: Checkpoint,
    layers: Sequence[int],
    destination: Callable[[int], Path],
    provenance: Mapping[str, object],
    progress: Progress = no_progress,
) -> dict[int, pa.Table]:
    """Write `destination(layer)` for each of `layers` and give their tables. Progress counts layers."""
    model = load_model(checkpoint, "float32", "cpu")
    head = unembedding(checkpoint, model)
    embedding = embedding_of(model).float()
    written: dict[int, pa.Table] = {}
    wanted = [mlp for mlp in find_gated_mlps(model) if mlp.layer in set(layers)]
    for done, mlp in enumerate(wanted, start=1):
        table = weights_table(mlp.layer, neuron_vectors(model, mlp), embedding, head)
        write_parquet(table, destination(mlp.layer), {**provenance, "layer": mlp.layer})
        written[mlp.layer] = table
        progress(done, len(wanted))
    return written
