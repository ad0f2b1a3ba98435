"""Tap gate, in, act and post of gated MLPs while their model runs.

What belongs here: when a running model is watched, and which of its products belong to which MLP and to which tokens. How
texts are laid out for the model belongs to `forward`.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.anatomy import ONE_BY_ONE, experts_implementation
from gluscope_assets.core.model.gated_mlp import EXPERTS_AXES, Activations, GatedMLP
from gluscope_assets.core.model.tracing import Product, Watch


class _LastBlockLeft(Exception):
    """Ends a forward pass once nothing after it is wanted."""


Receiver = Callable[[str, list[tuple[GatedMLP, Activations]]], None]
"""Called once for each block in a pass: with its path, and its MLPs that computed something, tokens on one axis."""


class _Pass(threading.local):
    """The forward pass that a thread is in."""

    receive: Receiver | None = None

    def __init__(self) -> None:
        self.watches: list[_BlockWatch] = []


class _Block:
    """A module that is watched, and its MLPs."""

    def __init__(self, path: str, module: nn.Module, mlps: Sequence[GatedMLP]) -> None:
        self.path, self.module, self.mlps = path, module, mlps
        self.parameters = {id(parameter): (name, parameter) for name, parameter in module.named_parameters(prefix=path)}
        self.mlp_of = {(mlp.gate.parameter, mlp.gate.expert): mlp for mlp in mlps}
        self.all_see_all_tokens = all(mlp.expert is None for mlp in mlps)


class _BlockWatch:
    """One run of a block."""

    def __init__(self, block: _Block, tokens: int, complete: Callable[["_BlockWatch"], None]) -> None:
        self.block, self.complete = block, complete
        self.watch = Watch(block.parameters, on_product=self.take, tokens=tokens)
        self.computed: list[tuple[GatedMLP, Activations]] = []
        self.delivered = False

    def take(self, product: Product) -> None:
        for expert, activations in _by_expert(product):
            mlp = self.block.mlp_of.get((product.gate_source.weight.name, expert))
            if mlp is not None:
                self.computed.append((mlp, activations))
        if self.block.all_see_all_tokens and len(self.computed) == len(self.block.mlps):
            self.complete(self)


def _by_expert(product: Product) -> Iterator[tuple[int | None, Activations]]:
    """A product's activations by expert, rows flattened."""
    source = product.gate_source
    act = product.act if product.gate.dtype == torch.float32 else None
    computed = Activations(product.gate, product.in_, act, product.post)
    if product.gate.dim() == len(source.weight.shape) == len(EXPERTS_AXES) and source.weight.expert is None:
        # All experts at once over all tokens; what is not sent to an expert reaches it as zeros.
        for expert in range(source.weight.shape[0]):
            tokens = source.input[expert].any(dim=-1).nonzero()[:, 0]
            yield expert, computed.each(itemgetter(expert)).rows(tokens, tokens)
        return
    activations = computed.each(lambda tensor: tensor.reshape(-1, tensor.shape[-1]))
    if source.experts is not None and source.rows is not None:
        for expert in sorted(set(source.experts.tolist())):
            of_expert = (source.experts == expert).nonzero()[:, 0].to(source.rows.device)
            rows = of_expert[_in_order(source.rows[of_expert])]
            yield expert, activations.rows(rows, source.rows[rows])
    elif source.rows is not None:
        rows = _in_order(source.rows)
        yield source.weight.expert, activations.rows(rows, source.rows[rows])
    else:
        yield source.weight.expert, activations


def _in_order(tokens: Tensor) -> Tensor:
    """The rows in the order of their tokens, one for a token that was sent to an expert more than once."""
    order = tokens.argsort(stable=True)
    return order[tokens[order].diff(prepend=tokens.new_full((1,), -1)) > 0]


class Taps(ExitStack):
    """While open, `run` hands the activations of each of `mlps` to a receiver. Threads may run at the same time."""

    def __init__(self, model: nn.Module, mlps: Sequence[GatedMLP]) -> None:
        super().__init__()
        self.model = model
        of_block: dict[str, list[GatedMLP]] = {}
        for mlp in mlps:
            of_block.setdefault(mlp.block, []).append(mlp)
        self.blocks = [_Block(path, model.get_submodule(path), own) for path, own in of_block.items()]
        self.stops = True
        """Whether a pass ends after the last block."""
        self._pass = _Pass()

    def __enter__(self) -> "Taps":
        self.enter_context(experts_implementation(self.model, ONE_BY_ONE))
        for block in self.blocks:
            self.callback(block.module.register_forward_pre_hook(self._enter(block), with_kwargs=True).remove)
            self.callback(block.module.register_forward_hook(self._leave, always_call=True).remove)
        return self

    @torch.inference_mode()
    def run(self, forward: Callable[[], object], receive: Receiver) -> None:
        """Call `forward`, which runs the model, and stop it after the last block."""
        self._pass.receive = receive
        try:
            with suppress(_LastBlockLeft):
                forward()
        finally:
            self._pass.receive = None

    def _enter(self, block: _Block) -> Callable[..., None]:
        def enter(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            if self._pass.receive is None:
                return
            hidden = next(value for value in (*inputs, *named.values()) if isinstance(value, Tensor))
            # The model itself is entered by token ids.
            tokens = hidden.shape[:-1].numel() if hidden.is_floating_point() else hidden.numel()
            started = _BlockWatch(block, tokens, self._deliver)
            self._pass.watches.append(started)
            started.watch.__enter__()  # type: ignore[no-untyped-call]

        return enter

    def _leave(self, module: nn.Module, inputs: object, output: object) -> None:
        if not self._pass.watches or self._pass.watches[-1].block.module is not module:
            return
        ended = self._pass.watches.pop()
        ended.watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if output is not None and not ended.delivered:
            self._deliver(ended)

    def _deliver(self, ended: _BlockWatch) -> None:
        """Hand over what a block computed. InputError if one of its MLPs, through which all tokens go, computed nothing."""
        ended.delivered = True
        silent = {mlp.path for mlp in ended.block.mlps if mlp.expert is None} - {mlp.path for mlp, _ in ended.computed}
        if silent:
            raise InputError(
                f"{sorted(silent)[0]} computed no gated product, though it does without values; load the model without "
                f"kernels or hooks that replace its operations."
            )
        assert self._pass.receive is not None
        self._pass.receive(ended.block.path, ended.computed)
        if self.stops and ended.block is self.blocks[-1]:
            raise _LastBlockLeft
