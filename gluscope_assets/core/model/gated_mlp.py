"""What a gated MLP is: where its weights lie in a model, and the activations it computes.

What belongs here: descriptions, plain data. How a model is searched for its gated MLPs is in `anatomy`, how a running model is
tapped in `taps`, what is computed from the tapped tensors in `reduction`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gluscope_assets.core.model.activation import activation_function
from gluscope_assets.core.quadrants import ACTIVATIONS

Stack = Literal["encoder", "decoder"]

EXPERTS_AXES = ("experts", "outputs", "inputs")
"""The axes, in some order of the last two, of a parameter that holds all experts."""


@dataclass(frozen=True)
class Projection:
    """Where the weights of one of a neuron's three vectors lie in a model."""

    parameter: str
    """The parameter's name in the model."""
    shape: tuple[int, ...]
    """As the model sees it: [experts, …] where one parameter holds all experts, even if it is stored flat."""
    inputs_first: bool
    """Whether the stored axes are [inputs, outputs] instead of [outputs, inputs]."""
    columns: Sequence[int]
    """The output (of w_out: the input) that belongs to each neuron."""
    expert: int | None = None
    """The expert's index on the first axis."""

    def vectors(self, stored: Tensor, neuron_axis: Literal["outputs", "inputs"]) -> Tensor:
        """[neurons, hidden] in the stored dtype, of the parameter `stored` or of an expert's slice of it."""
        if self.expert is not None and stored.numel() == math.prod(self.shape):
            stored = stored.view(self.shape)[self.expert]
        rows_first = self.inputs_first == (neuron_axis == "inputs")
        rows = stored if rows_first else stored.T
        if isinstance(self.columns, range):
            return rows[self.columns.start : self.columns.stop : self.columns.step]
        return rows[torch.tensor(self.columns)]


@dataclass(frozen=True)
class GatedMLP:
    """One gated MLP of a layer: the layer's own, an expert, or a shared expert."""

    layer: int
    """The first number in the path: 3 for `layers.3.mlp`."""
    path: str
    """The module that holds its weights, or all its fellow experts."""
    expert: int | None
    """The expert's number if tokens are routed to it."""
    block: str
    """The path of the module that is watched while it runs: all tokens enter it."""
    gate: Projection
    in_: Projection
    out: Projection
    activation: str
    """The name of σ in `activation`."""
    changed: bool
    """Whether something, such as a norm, stands between post and the output projection."""
    runs: int = 1
    """How often one pass runs it."""
    norm: str | None = None
    """The path of the norm that its input comes from; None if it reads the residual stream as it is."""
    norm_after: str | None = None
    """The path of the norm that its output goes through before it is added to the residual stream."""

    @property
    def width(self) -> int:
        """Neurons."""
        return len(self.gate.columns)

    @property
    def projections(self) -> tuple[Projection, Projection, Projection]:
        """Of gate, in and out."""
        return self.gate, self.in_, self.out

    @property
    def name(self) -> str:
        """The path inside the layer: `mlp`, `mlp.experts`, `mlp.shared_expert`."""
        return self.path.partition(f".{self.layer}.")[2] or self.path

    def by_name(self, activations: "Activations") -> dict[str, Tensor]:
        """Each of ACTIVATIONS, [rows, neurons]; act computed in float32 where the model's own is narrower.

        InputError if σ is then not one that has a name.
        """
        act = activations.act
        if act is None:
            act = activation_function(self.activation).compute(activations.gate.float())
        return dict(zip(ACTIVATIONS, (activations.gate, activations.in_, act, activations.post), strict=True))


@dataclass(frozen=True)
class Activations:
    """What a gated MLP computed, each [rows, neurons] in the model's dtype."""

    gate: Tensor
    in_: Tensor
    act: Tensor | None
    """As the model computed it if its dtype is float32; None if it must be computed in float32 from gate."""
    post: Tensor
    tokens: Tensor | None = None
    """[rows], the token of each row, ascending; None if the rows are all tokens in order."""

    def each(self, change: Callable[[Tensor], Tensor], tokens: Tensor | None = None) -> "Activations":
        """What `change` makes of each of the tensors; `tokens` says which tokens their rows are then of."""
        act = None if self.act is None else change(self.act)
        return Activations(change(self.gate), change(self.in_), act, change(self.post), tokens)

    def rows(self, chosen: Tensor, tokens: Tensor | None = None) -> "Activations":
        """The activations in `chosen` rows, int64 or bool [rows]; `tokens` says which tokens they are of."""
        return self.each(lambda tensor: tensor[chosen], tokens)
