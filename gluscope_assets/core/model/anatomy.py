"""Look through a transformers model: which gated MLPs it has, where their weights lie, which norms stand around them.

What belongs here: one pass over a few tokens, on tensors without values, and what its data flow says. Structure decides,
not names, but for two conventions that all models follow: a layer's number is the first in a module's path, and a module
that holds experts has `expert` in its name.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count, takewhile
from typing import Any

import torch
from torch import Tensor, nn

from gluscope_assets.core.errors import InputError, first_line
from gluscope_assets.core.model.activation import name_of_activation
from gluscope_assets.core.model.gated_mlp import EXPERTS_AXES, GatedMLP, Projection, Stack
from gluscope_assets.core.model.tracing import Normed, Produced, Projected, Watch

TRIAL_TOKENS = 7

WITHOUT_VALUES = "batched_mm"
"""The library's implementation of experts that runs on tensors without values."""

ONE_BY_ONE = "eager"
"""The library's implementation that computes expert after expert, each on the tokens routed to it."""


@dataclass(frozen=True)
class Anatomy:
    """What a model runs on text."""

    mlps: tuple[GatedMLP, ...]
    """By layer, in the order in which they run."""
    final_norm: str | None
    """The path of the norm whose output the head reads; None if there is none."""


class NeedsWeights(InputError):
    """A model can be looked through only with its weights."""


def look_through(model: nn.Module, stack: Stack | None = None) -> Anatomy:
    """The gated MLPs that `model` runs on text and the norms around them.

    The model may be on the meta device. `stack` chooses between an encoder and a decoder. InputError if there is no gated
    MLP, naming what there is instead, or if the stack is missing or wrong; NeedsWeights if the model must be run with its
    weights and has none.
    """
    _check_stack(model, stack)
    trial = _try(model)
    mlps = _as_mlps(trial, names_of_parameters(model))
    if stack is not None:
        mlps = [mlp for mlp in mlps if mlp.path.startswith(f"{stack}.")]
    if not mlps:
        raise InputError(
            f"{type(model).__name__} has no gated MLP{f' in its {stack}' if stack else ''}: no product of an activated and "
            f"another projection of one input enters a projection, it has only the linear parts {_linear_modules(model)}; "
            f"choose a model with a gated MLP such as Llama."
        )
    return Anatomy(tuple(sorted(mlps, key=lambda mlp: mlp.layer)), trial.final_norm)


def _check_stack(model: nn.Module, stack: Stack | None) -> None:
    has_both = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    if has_both and stack is None:
        raise InputError(f"{type(model).__name__} has an encoder and a decoder; set model.stack (--stack) to one of them.")
    if stack is not None and not has_both:
        raise InputError(f"{type(model).__name__} has one stack of layers only; remove model.stack (--stack).")


def _linear_modules(model: nn.Module) -> str:
    names = {
        path.split(".")[-1]
        for path, module in model.named_modules()
        # GPT-2's linear layers are called so.
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }
    return ", ".join(sorted(names)) or "none"


# The trial


@dataclass(frozen=True)
class _Entry:
    """A product that entered a projection, the modules that were running then, outermost first, and the norm before it."""

    produced: Produced
    entered: Projected
    running: tuple[str, ...]
    norm: str | None


class _Trial:
    """What one pass shows."""

    def __init__(self, kind: type[Watch], parameters: Mapping[str, Tensor]) -> None:
        by_id = {id(parameter): (name, parameter) for name, parameter in parameters.items()}
        self.watch = kind(by_id, on_entry=self._enter)
        self.entries: list[_Entry] = []
        self.norm_after: dict[str, str] = {}
        """By the path of a module, the norm that reads its output."""
        self.final_norm: str | None = None
        self._running: list[str] = []
        self._made: dict[int, tuple[Tensor, str]] = {}
        """The outermost module that gave a tensor."""

    def follow(self, model: nn.Module) -> ExitStack:
        """Hooks on all modules, until it is closed."""
        hooks = ExitStack()
        for path, module in model.named_modules():
            is_norm = "norm" in type(module).__name__.lower() and not any(module.children())
            hooks.callback(module.register_forward_pre_hook(self._begin(path, is_norm)).remove)
            hooks.callback(module.register_forward_hook(self._end(path, is_norm), always_call=True).remove)
        return hooks

    def _begin(self, path: str, is_norm: bool) -> Callable[..., None]:
        def begin(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._running.append(path)
            if is_norm and inputs and id(inputs[0]) in self._made:
                self.norm_after.setdefault(self._made[id(inputs[0])][1], path)

        return begin

    def _end(self, path: str, is_norm: bool) -> Callable[..., None]:
        def end(module: nn.Module, inputs: object, output: object) -> None:
            self._running.pop()
            for tensor in output if isinstance(output, tuple) else (output,):
                if isinstance(tensor, Tensor):
                    self._made[id(tensor)] = (tensor, path)
                    if is_norm and not isinstance(self.watch.tag(tensor), Produced):
                        self.watch.mark(tensor, Normed(path))

        return end

    def _enter(self, produced: Produced, entered: Projected) -> None:
        before = self.watch.tag(produced.product.gate_source.input)
        norm = before.norm if isinstance(before, Normed) else None
        self.entries.append(_Entry(produced, entered, tuple(self._running), norm))

    def finish(self, output: Any) -> None:
        """Take the model's output."""
        last = getattr(output, "last_hidden_state", None)
        before = self.watch.tag(last)
        self.final_norm = before.norm if isinstance(before, Normed) else None


def _try(model: nn.Module) -> _Trial:
    try:
        return _run_trial(model, _without_values(model))
    except Exception as error:  # whatever a model of any architecture may raise without values
        if next(model.parameters()).is_meta:
            raise NeedsWeights(
                f"{type(model).__name__} cannot be looked through without its weights "
                f"({type(error).__name__}: {first_line(error)}); load them."
            ) from error
        try:
            return _run_trial(model)
        except Exception as with_weights:  # whatever a model of any architecture may raise
            raise InputError(
                f"{type(model).__name__} does not run on text alone "
                f"({type(with_weights).__name__}: {first_line(with_weights)}); choose a model that needs nothing but token ids."
            ) from with_weights


def _run_trial(model: nn.Module, values: dict[str, Tensor] | None = None) -> _Trial:
    """Run the model on a few tokens, with `values` on the meta device instead of its own parameters if they are given."""
    kind, implementation = (Watch, ONE_BY_ONE) if values is None else (_WithoutValues, WITHOUT_VALUES)
    parameters = {name: parameter if values is None else values[name] for name, parameter in model.named_parameters()}
    device = next(iter(parameters.values())).device
    trial = _Trial(kind, parameters)
    inputs = _trial_inputs(model, device)
    with (
        trial.follow(model), experts_implementation(model, implementation), torch.inference_mode(), device, trial.watch
    ):  # fmt: skip
        if values is None:
            trial.finish(model(**inputs))
        else:
            trial.finish(torch.func.functional_call(model, values, kwargs=inputs, tie_weights=False))
    return trial


def _without_values(model: nn.Module) -> dict[str, Tensor]:
    """A tensor on the meta device for each parameter and buffer of each module: the same one where they are shared."""
    meta: dict[int, Tensor] = {}
    return {
        f"{path}.{name}".lstrip("."): meta.setdefault(id(tensor), tensor.detach().to("meta"))
        # A module that is used several times is named once: its tensors could not be put back after an error.
        for path, module in model.named_modules()
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    }


class _WithoutValues(Watch):
    """Answers what a model asks of tensors without values: that nothing is so, that every number is 0."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        if arguments and isinstance(arguments[0], Tensor) and arguments[0].device.type == "meta":
            if function is Tensor.__bool__:
                return False
            if function in (Tensor.item, Tensor.__int__, Tensor.__float__, Tensor.__index__):
                return 0
        return super().__torch_function__(function, types, arguments, options)


def _trial_inputs(model: nn.Module, device: torch.device) -> dict[str, Any]:
    """Arguments for a pass over one short text."""
    token = torch.arange(TRIAL_TOKENS, device=device)[None] % _vocabulary(model)
    inputs: dict[str, Any] = {"input_ids": token, "use_cache": False}
    config = getattr(model, "config", None)
    if config is None:
        inputs["attention_mask"] = torch.ones_like(token)
    elif config.is_encoder_decoder:
        inputs["decoder_input_ids"] = token
    return inputs


def _vocabulary(model: nn.Module) -> int:
    try:
        embedding = getattr(model, "get_input_embeddings", lambda: None)()
    except NotImplementedError:
        embedding = None
    weight = getattr(embedding, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) else 2


@contextmanager
def experts_implementation(model: nn.Module, name: str) -> Iterator[None]:
    """Compute experts as the library calls `name`, where the model has any."""
    config = getattr(model, "config", None)
    before = getattr(config, "_experts_implementation", None)
    choose: Any = getattr(model, "set_experts_implementation", None)
    if choose is None or before is None:
        yield
        return
    choose(name)
    try:
        yield
    finally:
        choose(before)


# From products to MLPs


def names_of_parameters(model: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter, several where layers share it, by its first name."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {of_one[0]: of_one for of_one in names.values()}


def _as_mlps(trial: _Trial, names: Mapping[str, list[str]]) -> list[GatedMLP]:
    """An MLP for each product, and for each expert like the one that computed it."""
    mlps: dict[tuple[str, int | None], GatedMLP] = {}
    products: dict[tuple[str, int | None, int | None], set[int]] = {}
    for entry in trial.entries:
        if re.search(NUMBER, entry.produced.product.gate_source.weight.name):
            mlp = _as_mlp(entry, names, trial.norm_after)
            # A product may enter the projections of several experts, some rows in each.
            product = entry.produced.product
            products.setdefault((mlp.path, mlp.expert, product.gate_source.weight.expert), set()).add(id(product))
            for fellow in _with_fellows(mlp, names):
                mlps.setdefault((fellow.gate.parameter, fellow.expert), fellow)
    runs: dict[str, int] = {}
    for (path, _, _), computed in products.items():
        runs[path] = max(runs.get(path, 0), len(computed))
    return _in_outermost_blocks([replace(mlp, runs=runs[mlp.path]) for mlp in mlps.values()])


NUMBER = re.compile(r"(?<=\.)(\d+)(?=\.)")
BELOW_LAYER = re.compile(r"(?:^|\.)\d+\.")
EXPERT = re.compile(r"(?:^|\.)[^.]*expert[^.]*(?:\.(\d+))?(?=\.|$)")
"""A module that holds experts, and the number of one if each is a module of its own."""


def _as_mlp(entry: _Entry, names: Mapping[str, list[str]], norm_after: Mapping[str, str]) -> GatedMLP:
    product = entry.produced.product

    def projection(source: Projected, columns: Sequence[int]) -> Projection:
        # Of the names of a shared parameter, the one in the module that runs.
        module = max(
            (module for module in entry.running if any(_holds(module, name) for name in names[source.weight.name])), key=len
        )
        name = next(name for name in names[source.weight.name] if _holds(module, name))
        return Projection(name, tuple(source.weight.shape), source.inputs_first, columns)

    gate, in_ = (
        projection(source, _as_range(source.column_of_neuron().tolist())) for source in (product.gate_source, product.in_source)
    )
    out = projection(entry.entered, range(product.post.shape[-1]))
    path = _common_path([gate.parameter, in_.parameter, out.parameter])
    layer = re.search(NUMBER, f".{gate.parameter}")
    assert layer is not None
    activation = name_of_activation(product.activation)
    expert = EXPERT.search(path)
    number = None
    block = path
    if expert is not None:
        # Tokens are sent to the experts in the module above them.
        block = path[: expert.start()]
        if expert[1] is not None:
            number, path = int(expert[1]), path[: expert.start(1) - 1]
    # A module above may use the parameters of one that does not run itself.
    block = max((module for module in entry.running if _holds(module, block)), key=len)
    after = [norm for module, norm in norm_after.items() if _holds(module, path) and re.search(BELOW_LAYER, module)]
    return GatedMLP(
        layer=int(layer[1]),
        path=path,
        expert=number,
        block=block,
        gate=gate,
        in_=in_,
        out=out,
        activation=activation,
        changed=entry.produced.changed,
        norm=entry.norm,
        norm_after=next(iter(after), None),
    )


def _holds(module: str, path: str) -> bool:
    """Whether `path` is a module or lies in it; the model itself is called by the empty path."""
    return not module or f"{path}.".startswith(f"{module}.")


def _common_path(names: Sequence[str]) -> str:
    """The innermost module that holds parameters of these names."""
    modules = [name.split(".")[:-1] for name in names]
    common = takewhile(lambda level: len(set(level)) == 1, zip(*modules, strict=False))
    return ".".join(level[0] for level in common)


def _as_range(columns: list[int]) -> Sequence[int]:
    step = columns[1] - columns[0] if len(columns) > 1 else 1
    regular = range(columns[0], columns[0] + step * len(columns), step) if step > 0 else range(0)
    return regular if list(regular) == columns else tuple(columns)


def _with_fellows(mlp: GatedMLP, names: Collection[str]) -> Iterator[GatedMLP]:
    """The MLP itself if it is no expert, else all experts of its module."""
    if mlp.expert is not None:
        numbered = f"{mlp.path}.{mlp.expert}."
        for number in count():
            fellow = f"{mlp.path}.{number}."
            gate, in_, out = (replace(own, parameter=own.parameter.replace(numbered, fellow)) for own in mlp.projections)
            if any(projection.parameter not in names for projection in (gate, in_, out)):
                return
            yield replace(mlp, expert=number, gate=gate, in_=in_, out=out)
    elif len(mlp.gate.shape) == len(EXPERTS_AXES):
        for number in range(mlp.gate.shape[0]):
            gate, in_, out = (replace(own, expert=number) for own in mlp.projections)
            yield replace(mlp, expert=number, gate=gate, in_=in_, out=out)
    else:
        yield mlp


def _in_outermost_blocks(mlps: Sequence[GatedMLP]) -> list[GatedMLP]:
    """`mlps` with blocks that hold no other block."""
    blocks = sorted({mlp.block for mlp in mlps}, key=len)
    outermost = {block: next(outer for outer in blocks if _holds(outer, block)) for block in blocks}
    return [replace(mlp, block=outermost[mlp.block]) for mlp in mlps]
