"""Gated products recognised by what is computed, written in the many ways that models write them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.activation import activation_function, name_of_activation
from gluscope_assets.core.model.tracing import Produced, Product, Projected, Watch

HIDDEN, NEURONS = 6, 4
Weights = dict[str, Tensor]


def watched(compute: Callable[[Tensor, Weights], object]) -> tuple[list[Product], list[tuple[Produced, Projected]]]:
    """The products in a computation on [5, hidden], and those that enter a projection."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "gate": (NEURONS, HIDDEN), "up": (NEURONS, HIDDEN), "both": (2 * NEURONS, HIDDEN), "down": (HIDDEN, NEURONS),
        "bias": (NEURONS,), "norm": (NEURONS,),
    }  # fmt: skip
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    products: list[Product] = []
    entries: list[tuple[Produced, Projected]] = []
    by_id = {id(weight): (name, weight) for name, weight in weights.items()}
    with Watch(by_id, products.append, lambda *entry: entries.append(entry)):
        compute(torch.randn(5, HIDDEN, generator=generator), weights)
    return products, entries


def separate(x: Tensor, w: Weights) -> Tensor:
    return (functional.silu(x @ w["gate"].T) * functional.linear(x, w["up"])) @ w["down"].T


def the_other_way_round(x: Tensor, w: Weights) -> Tensor:
    return functional.linear(functional.linear(x, w["up"]) * functional.silu(functional.linear(x, w["gate"])), w["down"])


def activated_in_place(x: Tensor, w: Weights) -> Tensor:
    gate = functional.linear(x, w["gate"])
    functional.silu(gate, inplace=True)
    return functional.linear(gate.mul_(functional.linear(x, w["up"])), w["down"])


def by_sigmoid(x: Tensor, w: Weights) -> Tensor:
    gate = functional.linear(x, w["gate"])
    return functional.linear(gate * torch.sigmoid(gate) * functional.linear(x, w["up"]), w["down"])


@pytest.mark.parametrize("compute", [separate, the_other_way_round, activated_in_place, by_sigmoid])
def test_a_gated_product_is_found_however_it_is_written(compute: Callable[[Tensor, Weights], Tensor]) -> None:
    (product,), ((produced, entered),) = watched(compute)
    assert (product.gate_source.weight.name, product.in_source.weight.name) == ("gate", "up")
    assert (entered.weight.name, produced.changed) == ("down", False)
    torch.testing.assert_close(product.act, functional.silu(product.gate))
    torch.testing.assert_close(product.act * product.in_, product.post)
    assert name_of_activation(product.activation) == "silu"


@pytest.mark.parametrize(
    ("split", "gate", "in_"),
    [
        (lambda both: both.chunk(2, dim=-1), range(4), range(4, 8)),
        (lambda both: both.chunk(2, dim=-1)[::-1], range(4, 8), range(4)),
        (lambda both: (both[..., ::2], both[..., 1::2]), range(0, 8, 2), range(1, 8, 2)),
        (lambda both: both.view(5, 2, 4).unbind(1), range(4), range(4, 8)),
        (lambda both: both.split([4, 4], dim=1), range(4), range(4, 8)),
    ],
)
def test_the_halves_of_a_fused_projection_are_told_apart(
    split: Callable[[Tensor], tuple[Tensor, Tensor]], gate: range, in_: range
) -> None:
    def compute(x: Tensor, w: Weights) -> None:
        first, second = split(functional.linear(x, w["both"]))
        functional.linear(functional.gelu(first) * second, w["down"])

    ((product,), _) = watched(compute)
    assert product.gate_source.column_of_neuron().tolist() == list(gate)
    assert product.in_source.column_of_neuron().tolist() == list(in_)


def test_gate_and_in_are_what_the_model_multiplies_clamps_and_biases_included() -> None:
    def compute(x: Tensor, w: Weights) -> None:
        gate = (functional.linear(x, w["gate"]) + w["bias"]).clamp(max=0.5)
        up = functional.linear(x, w["up"]).clamp(-0.5, 0.5)
        functional.linear((up + 1) * (gate * torch.sigmoid(gate * 1.702)), w["down"])

    ((product,), _) = watched(compute)
    assert product.gate.max() == 0.5
    assert (product.in_.min(), product.in_.max()) == (0.5, 1.5)
    assert name_of_activation(product.activation) == "quick_gelu"


def test_a_factor_that_is_only_bounded_is_in_and_not_act() -> None:
    def compute(x: Tensor, w: Weights) -> None:
        bounded = 3 * torch.tanh(functional.linear(x, w["up"]) / 3)
        functional.linear(bounded * functional.silu(functional.linear(x, w["gate"])), w["down"])

    ((product,), _) = watched(compute)
    assert product.gate_source.weight.name == "gate"
    assert product.in_.abs().max() < 3


def test_a_projection_with_an_adapter_beside_it_is_one() -> None:
    def compute(x: Tensor, w: Weights) -> None:
        gate = functional.linear(x, w["gate"]) + functional.linear(x, w["up"])
        functional.linear(functional.silu(gate) * functional.linear(x, w["up"]), w["down"])

    ((product,), _) = watched(compute)
    assert product.gate_source.weight.name == "gate"


def test_what_happens_between_the_product_and_the_output_is_noticed() -> None:
    def compute(x: Tensor, w: Weights) -> None:
        post = functional.silu(functional.linear(x, w["gate"])) * functional.linear(x, w["up"])
        functional.linear(post * post.pow(2).mean(-1, keepdim=True).rsqrt() * w["norm"], w["down"])

    _, ((produced, _),) = watched(compute)
    assert produced.changed


@pytest.mark.parametrize(
    "compute",
    [
        lambda x, w: functional.linear(functional.silu(functional.linear(x, w["gate"])), w["down"]),
        lambda x, w: functional.linear(functional.linear(x, w["gate"]) * functional.linear(x, w["up"]), w["down"]),
        # The other factor comes from another input, as the output of attention does.
        lambda x, w: functional.linear(torch.sigmoid(functional.linear(x, w["gate"])) * torch.randn(5, NEURONS), w["down"]),
        lambda x, w: functional.linear(
            torch.sigmoid(functional.linear(x, w["gate"])) * functional.linear(x + 1, w["up"]), w["down"]
        ),
        # A single gate for all neurons, as a router has it.
        lambda x, w: torch.sigmoid(functional.linear(x, w["gate"])[:, :1]) * functional.linear(x, w["up"]),
    ],
)
def test_what_only_looks_like_a_gated_product_is_none(compute: Callable[[Tensor, Weights], Tensor]) -> None:
    assert watched(compute) == ([], [])


def test_an_activation_function_is_known_by_its_values() -> None:
    known = {
        "silu": nn.SiLU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh"), "relu": nn.ReLU(), "sigmoid": nn.Sigmoid(),
        "relu_squared": lambda x: x.relu() ** 2, "unnamed": nn.Mish(),
    }  # fmt: skip
    assert {name: name_of_activation(function) for name, function in known.items()} == {name: name for name in known}
    x = torch.linspace(-5, 5, 50)
    torch.testing.assert_close(activation_function("gelu_tanh").compute(x), nn.GELU("tanh")(x))
    with pytest.raises(InputError, match="The model's activation function is unnamed: it is none of gelu, gelu_tanh,"):
        activation_function("unnamed")
