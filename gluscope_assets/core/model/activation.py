"""Activation functions σ: their names, what people call them, and how to compute them.

A model's σ is told by its values, not by what its config calls it. torch is imported inside functions, because pages are made
without it: what they show of the position sample is computed with numpy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gluscope_assets.core.arrays import Floats
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
    of_array: "Callable[[Floats], Floats]"
    """The same in float32 without torch, to a few units in the last digit."""


def _functional(name: str, **options: str) -> "Callable[[Tensor], Tensor]":
    """One of torch's own functions."""

    def compute(gate: "Tensor") -> "Tensor":
        import torch

        activated: Tensor = getattr(torch.nn.functional, name)(gate, **options)
        return activated

    return compute


_gelu_tanh = _functional("gelu", approximate="tanh")


def _logistic(x: Floats) -> Floats:
    # Where exp overflows the result is 0, as it should be.
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)), dtype=np.float32)


def _gelu_of_array(x: Floats) -> Floats:
    """x/2 · erfc(-x/√2), by the rational Chebyshev fit of erfc in Press et al., Numerical Recipes (relative error 1.2e-7)."""
    z = np.abs(x.astype(np.float64)) / math.sqrt(2)
    t = 1 / (1 + z / 2)
    polynomial = np.polynomial.polynomial.polyval(t, ERFC)
    tail = t * np.exp(-z * z + polynomial)
    return np.asarray(x / 2 * np.where(x > 0, 2 - tail, tail), dtype=np.float32)


ERFC = (
    -1.26551223,
    1.00002368,
    0.37409196,
    0.09678418,
    -0.18628806,
    0.27886807,
    -1.13520398,
    1.48851587,
    -0.82215223,
    0.17087277,
)


def _gelu_tanh_of_array(x: Floats) -> Floats:
    return x * _logistic(np.float32(math.sqrt(8 / math.pi)) * (x + np.float32(0.044715) * x * x * x))


def _relu_of_array(x: Floats) -> Floats:
    return np.maximum(x, np.float32(0))


def _quick_gelu_of_array(x: Floats) -> Floats:
    return x * _logistic(np.float32(1.702) * x)


ACTIVATION_FUNCTIONS = {
    "silu": ActivationFunction("Swish", "SwiGLU", _functional("silu"), lambda gate: gate * _logistic(gate)),
    "gelu": ActivationFunction("GELU", "GeGLU", _functional("gelu"), _gelu_of_array),
    "gelu_tanh": ActivationFunction("GELU (tanh)", "GeGLU", _gelu_tanh, _gelu_tanh_of_array),
    "quick_gelu": ActivationFunction(
        "Swish with β = 1.702", "SwiGLU", lambda gate: gate * (1.702 * gate).sigmoid(), _quick_gelu_of_array
    ),
    "relu": ActivationFunction("ReLU", "ReGLU", lambda gate: gate.relu(), _relu_of_array),
    "relu_squared": ActivationFunction(
        "ReLU²", "ReGLU", lambda gate: gate.relu().square(), lambda gate: np.square(_relu_of_array(gate))
    ),
    "relu_gelu_tanh": ActivationFunction(
        "GELU (tanh) of ReLU",
        "GeGLU",
        lambda gate: _gelu_tanh(gate.relu()),
        lambda gate: _gelu_tanh_of_array(_relu_of_array(gate)),
    ),
    "sigmoid": ActivationFunction("sigmoid", "GLU", lambda gate: gate.sigmoid(), _logistic),
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
            name: float((values - named.compute(gate)).abs().max()) if values.shape == gate.shape else 1.0
            for name, named in ACTIVATION_FUNCTIONS.items()
        }
    nearest = min(distance, key=distance.__getitem__)
    return nearest if distance[nearest] < TOLERANCE else UNNAMED
