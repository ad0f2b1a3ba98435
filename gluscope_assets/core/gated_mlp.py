"""Find the gated MLPs of a transformers model and tap gate, in and post while it runs.

Here: `down_proj(act_fn(gate_proj(x)) * up_proj(x))`. What is computed from the tapped tensors belongs to `collect`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gluscope_assets.core.errors import InputError

PARTS = ("gate_proj", "up_proj", "down_proj", "act_fn")
"""The attributes that make a module a gated MLP."""


@dataclass(frozen=True)
class GatedMLP:
    """One layer's gated MLP inside a model."""

    layer: int
    """The number in the module's path: 3 for `layers.3.mlp`."""
    path: str
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear
    act: Callable[[Tensor], Tensor]
    """The model's own activation function σ, elementwise."""

    @property
    def width(self) -> int:
        """Neurons."""
        return self.down.in_features


def find_gated_mlps(model: nn.Module) -> list[GatedMLP]:
    """The gated MLPs of `model` in layer order. InputError if there is none, naming the model and what it has instead."""
    found = []
    for path, module in model.named_modules():
        numbers = [int(part) for part in path.split(".") if part.isdigit()]
        if numbers and all(hasattr(module, part) for part in PARTS):
            found.append(GatedMLP(numbers[0], path, module.gate_proj, module.up_proj, module.down_proj, module.act_fn))
    if not found:
        linear = sorted({path.split(".")[-1] for path, part in model.named_modules() if isinstance(part, nn.Linear)})
        raise InputError(
            f"{type(model).__name__} has no gated MLP: looked for modules with {', '.join(PARTS)}, "
            f"found only the linear parts {', '.join(linear) or 'none'}; choose a model with a gated MLP such as Llama."
        )
    return sorted(found, key=lambda mlp: mlp.layer)


class _LastLayerReached(Exception):
    """Ends a forward pass once nothing after it is wanted."""


Receiver = Callable[[GatedMLP, Tensor, Tensor, Tensor], None]
"""Called with a layer's MLP and its gate, in and post, each [texts, positions, neurons] in the model's dtype."""


@contextmanager
def tapped(mlps: Sequence[GatedMLP], receive: Receiver) -> Iterator[None]:
    """While open, every forward pass hands each MLP's gate, in and post to `receive`."""
    handles = []

    def tap(mlp: GatedMLP) -> None:
        held: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                held[name] = output

            return hook

        def deliver(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            receive(mlp, held.pop("gate"), held.pop("in"), inputs[0])

        handles.append(mlp.gate.register_forward_hook(keep("gate")))
        handles.append(mlp.up.register_forward_hook(keep("in")))
        handles.append(mlp.down.register_forward_pre_hook(deliver))

    try:
        for mlp in mlps:
            tap(mlp)
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def run_taps(model: nn.Module, mlps: Sequence[GatedMLP], token: Tensor, attention_mask: Tensor, receive: Receiver) -> None:
    """Run `model` on `token` and `attention_mask` [texts, positions], stopping after the last of `mlps`."""
    last = mlps[-1]

    def receive_and_stop(mlp: GatedMLP, gate: Tensor, in_: Tensor, post: Tensor) -> None:
        receive(mlp, gate, in_, post)
        if mlp is last:
            raise _LastLayerReached

    with tapped(mlps, receive_and_stop), suppress(_LastLayerReached):
        model(input_ids=token, attention_mask=attention_mask, use_cache=False)
