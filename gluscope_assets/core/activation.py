"""Activation functions σ: their names, what people call them, and how to compute them.

A model's σ is known by its values, not by what its config calls it. torch is imported inside functions, because the page
renderer, which asset definitions import, uses the names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gluscope_assets.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

UNNAMED = "unnamed"
"""The name of every σ that is none of `ACTIVATION_FUNCTIONS`."""

TOLERANCE = 1e-5
"""The largest difference between two computations of one σ in float32, for gates between -8 and 8."""


@dataclass(frozen=True)
class ActivationFunction:
    """One σ."""

    label: str
    """As people call it."""
    glu: str
    """What a gated MLP with it is called."""
    compute: "Callable[[Tensor], Tensor]"
    """Elementwise."""


def _silu(gate: "Tensor") -> "Tensor":
    import torch

    return torch.nn.functional.silu(gate)


def _gelu(gate: "Tensor") -> "Tensor":
    import torch

    return torch.nn.functional.gelu(gate)


def _gelu_tanh(gate: "Tensor") -> "Tensor":
    import torch

    return torch.nn.functional.gelu(gate, approximate="tanh")


ACTIVATION_FUNCTIONS = {
    "silu": ActivationFunction("Swish", "SwiGLU", _silu),
    "gelu": ActivationFunction("GELU", "GeGLU", _gelu),
    "gelu_tanh": ActivationFunction("GELU (tanh)", "GeGLU", _gelu_tanh),
    "quick_gelu": ActivationFunction("Swish with β = 1.702", "SwiGLU", lambda gate: gate * (1.702 * gate).sigmoid()),
    "relu": ActivationFunction("ReLU", "ReGLU", lambda gate: gate.relu()),
    "relu_squared": ActivationFunction("ReLU²", "ReGLU", lambda gate: gate.relu().square()),
    "relu_gelu_tanh": ActivationFunction("GELU (tanh) of ReLU", "GeGLU", lambda gate: _gelu_tanh(gate.relu())),
    "sigmoid": ActivationFunction("sigmoid", "GLU", lambda gate: gate.sigmoid()),
}
"""By the name that tables and pages use."""


def activation_function(name: str) -> ActivationFunction:
    """The activation function of that name. InputError if there is none."""
    try:
        return ACTIVATION_FUNCTIONS[name]
    except KeyError:
        raise InputError(
            f"The model's activation function is {name}: it is none of {', '.join(sorted(ACTIVATION_FUNCTIONS))}; add it to "
            f"ACTIVATION_FUNCTIONS."
        ) from None


def name_of_activation(function: "Callable[[Tensor], Tensor]") -> str:
    """The name of the activation function with the same values; `unnamed` if there is none."""
    import torch

    with torch.device("cpu"):
        gate = torch.linspace(-8, 8, 4001)
        try:
            values = function(gate)
        except (RuntimeError, NotImplementedError):  # it depends on more than the gate
            return UNNAMED
        distance = {
            name: float((values - known.compute(gate)).abs().max()) if values.shape == gate.shape else 1.0
            for name, known in ACTIVATION_FUNCTIONS.items()
        }
    nearest = min(distance, key=distance.__getitem__)
    return nearest if distance[nearest] < TOLERANCE else UNNAMED
