"""Find the gated MLPs of a transformers model and tap gate, in, act and post while it runs.

Here: `down_proj(act_fn(gate_proj(x)) * up_proj(x))`. How texts are laid out for the model belongs to `forward`, what is
computed from the tapped tensors to `reduction`.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
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


@dataclass(frozen=True)
class Activations:
    """What a gated MLP computed, each [tokens, neurons] in the model's dtype."""

    gate: Tensor
    in_: Tensor
    act: Tensor | None
    """As the model computed it if its dtype is float32; None if it must be computed in float32 from gate."""
    post: Tensor

    def rows(self, chosen: Tensor) -> "Activations":
        """The activations at some tokens."""
        act = None if self.act is None else self.act[chosen]
        return Activations(self.gate[chosen], self.in_[chosen], act, self.post[chosen])


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


Receiver = Callable[[GatedMLP, Activations], None]
"""Called with a layer's MLP and its activations, tokens flattened to one axis."""


class _Pass(threading.local):
    """The forward pass that a thread is in."""

    receive: Receiver | None = None

    def __init__(self) -> None:
        self.held: dict[str, Tensor] = {}


class Taps(ExitStack):
    """While open, `run` hands the activations of each of `mlps` to a receiver. Threads may run at the same time."""

    def __init__(self, mlps: Sequence[GatedMLP]) -> None:
        super().__init__()
        self.mlps = mlps
        self._pass = _Pass()

    def __enter__(self) -> "Taps":
        for mlp in self.mlps:
            self._tap(mlp)
        return self

    @torch.inference_mode()
    def run(self, forward: Callable[[], object], receive: Receiver) -> None:
        """Call `forward`, which runs the model, and stop it after the last MLP."""
        self._pass.receive = receive
        try:
            with suppress(_LastLayerReached):
                forward()
        finally:
            self._pass.receive = None
            self._pass.held.clear()

    def _tap(self, mlp: GatedMLP) -> None:
        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                self._pass.held[name] = output.flatten(0, -2)

            return hook

        def deliver(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if self._pass.receive is None:
                return
            held = self._pass.held
            post = inputs[0].flatten(0, -2)
            self._pass.receive(mlp, Activations(held.pop("gate"), held.pop("in"), held.pop("act", None), post))
            if mlp is self.mlps[-1]:
                raise _LastLayerReached

        self._until_closed(mlp.gate.register_forward_hook(keep("gate")))
        self._until_closed(mlp.up.register_forward_hook(keep("in")))
        if isinstance(mlp.act, nn.Module) and mlp.gate.weight.dtype == torch.float32:
            self._until_closed(mlp.act.register_forward_hook(keep("act")))
        self._until_closed(mlp.down.register_forward_pre_hook(deliver))

    def _until_closed(self, handle: torch.utils.hooks.RemovableHandle) -> None:
        self.callback(handle.remove)
