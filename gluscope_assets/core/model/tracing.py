"""What a model computes, watched while it computes: projections, activations of them, and gated products.

What belongs here: following tensors from operation to operation. A gated product is recognised by its data flow alone,
σ(gate) * in with gate and in two projections of one input, whatever names a model gives its modules. Which modules
are watched, and when, belongs to `taps`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Function = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter, or an expert's slice of it."""

    name: str
    """The parameter's name in the model."""
    parameter: Tensor
    shape: torch.Size
    """As the model sees it before it takes an expert's slice: its own, or that of a view with an axis of experts."""
    expert: int | None = None
    """The expert whose slice this is."""
    transposed: bool = False
    """Whether its last two axes are exchanged."""


@dataclass(frozen=True, eq=False)
class Projected:
    """A tensor that is, element by element, an affine function of a projection input · weight."""

    weight: Weight
    inputs_first: bool
    """Whether the stored weight is [inputs, outputs] instead of [outputs, inputs]."""
    input: Tensor
    columns: Tensor
    """Of the tensor's shape, without memory of its own: the output of the projection that each element stands for."""
    step: int = 0
    """Elementwise operations since the projection."""
    rows: Tensor | None = None
    """The token of each row; None if the rows are the tokens in order."""
    experts: Tensor | None = None
    """The expert of each row, where experts follow one another."""

    def column_of_neuron(self) -> Tensor:
        """[neurons], the output of the projection that each of the last axis' elements stands for."""
        # As strides, because an expert without tokens has no row to read.
        return self.columns.as_strided(self.columns.shape[-1:], self.columns.stride()[-1:])

    def is_of(self, other: "Projected") -> bool:
        """Whether both stand for the same outputs of the same projection."""
        if self.weight.parameter is not other.weight.parameter or self.weight.expert != other.weight.expert:
            return False
        first, second = self.column_of_neuron(), other.column_of_neuron()
        same_place = first.data_ptr() == second.data_ptr() and first.stride() == second.stride()
        return first.shape == second.shape and (same_place or torch.equal(first, second))


@dataclass(frozen=True, eq=False)
class Activated:
    """A tensor that is, element by element, a function of `gate` alone."""

    gate: Tensor
    source: Projected
    """Of gate."""


@dataclass(frozen=True, eq=False)
class Product:
    """σ(gate) * in, as computed."""

    gate: Tensor
    in_: Tensor
    act: Tensor
    post: Tensor
    gate_source: Projected
    in_source: Projected
    activation: Callable[[Tensor], Tensor]
    """σ: the operations between gate and act, for any tensor."""


@dataclass(frozen=True, eq=False)
class Produced:
    """A tensor that is computed from a product, element by element or row by row."""

    product: Product
    changed: bool
    """Whether something was done to the product since, such as a norm."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """Rows that were chosen from the tokens."""

    rows: Tensor


@dataclass(frozen=True, eq=False)
class Normed:
    """What a norm gave, its rows perhaps chosen, repeated or scaled as a whole."""

    norm: str


Tag = Weight | Projected | Activated | Produced | Chosen | Normed


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIEWS = _names(
    "view reshape transpose permute squeeze unsqueeze flatten unflatten chunk split tensor_split unbind __getitem__ narrow "
    "select movedim swapaxes swapdims expand t"
)
COPIES = _names("contiguous clone detach to float half bfloat16 double type type_as dropout dropout_ requires_grad_")
AFFINE = _names(
    "add sub mul div neg clamp clamp_min clamp_max add_ sub_ mul_ div_ neg_ clamp_ clip clip_ __add__ __radd__ __sub__ "
    "__rsub__ __mul__ __rmul__ __truediv__ __neg__ __iadd__ __isub__ __imul__ __itruediv__ multiply subtract minimum "
    "maximum rsub true_divide negative"
)
PRODUCTS = _names("mul mul_ __mul__ __rmul__ __imul__ multiply")
NONLINEAR = _names(
    "silu gelu relu relu_ relu6 sigmoid sigmoid_ tanh tanh_ softplus mish elu selu celu leaky_relu hardswish hardsigmoid "
    "hardtanh logsigmoid softsign exp expm1 erf pow square sqrt abs log log1p sin __pow__ __rpow__ threshold"
)
ROWWISE = _names("repeat repeat_interleave index_select tile")
LINEAR = _names("linear matmul mm bmm addmm baddbmm __matmul__ __rmatmul__")
TRANSPOSES = _names("t transpose swapaxes swapdims permute T mT")


class Watch(TorchFunctionMode):
    """While entered, follows tensors from `parameters` on and reports each gated product. A thread needs its own.

    `on_product` is called as soon as a product is computed, `on_entry` when one enters a projection (with what
    the projection gives). Rows are followed from tensors of `tokens` rows, if given.
    """

    def __init__(
        self,
        parameters: Mapping[int, tuple[str, Tensor]],
        on_product: Callable[[Product], None] | None = None,
        on_entry: Callable[[Produced, Projected], None] | None = None,
        tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.parameters = parameters
        """(name, parameter) by the parameter's id."""
        self.on_product, self.on_entry, self.tokens = on_product, on_entry, tokens
        # Tensors are held with their tags, so that no other tensor gets the id of one.
        self._held: dict[int, tuple[Tensor, Tag]] = {}
        self._made_by: dict[int, tuple[Function, tuple[Any, ...], Mapping[str, Any]]] = {}
        """The operation that gave each function of a projection."""
        self._overwritten: Tensor | None = None
        """A copy of the tensor that the present operation overwrites."""

    def __torch_function__(
        self, function: Function, types: Sequence[type], arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        name = _name_of(function)
        self._overwritten = None
        if name in NONLINEAR or name in PRODUCTS:
            self._keep_overwritten(name, arguments, options)
        result = function(*arguments, **options)
        if name in VIEWS or name in TRANSPOSES:
            self._view(name, function, arguments, options, result)
        elif isinstance(result, Tensor):
            tag = self._tag_of_result(name, arguments, options, result)
            if tag is not None:
                self.mark(result, tag)
                if isinstance(tag, Projected | Activated):
                    made_from = arguments if self._overwritten is None else (self._overwritten, *arguments[1:])
                    if all(argument is not result for argument in made_from):
                        self._made_by[id(result)] = (function, made_from, options)
        return result

    def tag(self, value: object) -> Tag | None:
        """What a tensor is, None if it is nothing that is followed."""
        held = self._held.get(id(value))
        if held is not None:
            return held[1]
        parameter = self.parameters.get(id(value))
        if parameter is not None:
            return Weight(parameter[0], parameter[1], parameter[1].shape)
        return None

    def mark(self, value: Tensor, tag: Tag) -> None:
        """Say what a tensor is, where no operation shows it."""
        self._held[id(value)] = (value, tag)

    def _keep_overwritten(self, name: str, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        """Copy a tensor that the operation overwrites, so that gate and act stay as they were."""
        in_place = (name.endswith("_") and not name.startswith("__")) or name.startswith("__i") or options.get("inplace")
        if not in_place or not arguments:
            return
        tag = self.tag(arguments[0])
        if isinstance(tag, Projected | Activated):
            copy = arguments[0].clone()
            if isinstance(tag, Activated) and tag.gate is arguments[0]:
                tag = replace(tag, gate=copy)
            self.mark(copy, tag)
            self._overwritten = copy
            if id(arguments[0]) in self._made_by:
                self._made_by[id(copy)] = self._made_by[id(arguments[0])]

    # Views

    def _view(self, name: str, function: Function, arguments: tuple[Any, ...], options: Mapping[str, Any], result: Any) -> None:
        """Give the tag of the first argument to what is seen of it."""
        tag = self.tag(arguments[0]) if arguments else None
        if name == "__getitem__" and not isinstance(tag, Weight) and self._chooses_rows(arguments):
            self.mark(result, Chosen(arguments[1]))
            return
        if tag is None:
            return
        views = [result] if isinstance(result, Tensor) else list(result)
        seen: Sequence[Tag | None]
        if isinstance(tag, Weight):
            seen = [_view_of_weight(tag, name, arguments, view) for view in views]
        elif isinstance(tag, Projected):
            of_columns = _views_of_columns(tag, name, function, arguments, options, views)
            seen = [None if columns is None else replace(tag, columns=columns) for columns in of_columns]
        elif isinstance(tag, Chosen) and name in ("split", "chunk") and _axis(2, arguments, options) == 0:
            seen = [Chosen(rows) for rows in function(tag.rows, *arguments[1:], **options)]
        elif isinstance(tag, Chosen):
            seen = [tag if len(views) == 1 and views[0].shape[0] == len(tag.rows) else None] * len(views)
        else:
            # Rows of a norm or a product may go to one expert each.
            is_product = isinstance(tag, Produced) and views[0].shape[-1] == tag.product.post.shape[-1]
            seen = [tag if len(views) == 1 or isinstance(tag, Normed) or is_product else None] * len(views)
        for view, of_view in zip(views, seen, strict=True):
            if of_view is not None:
                self.mark(view, of_view)

    def _chooses_rows(self, arguments: tuple[Any, ...]) -> bool:
        """Whether rows are chosen from a tensor that has one for each token."""
        whole, index = arguments
        is_index = isinstance(index, Tensor) and index.dim() == 1 and index.dtype == torch.int64
        return is_index and whole.dim() == len(("tokens", "hidden")) and whole.shape[0] == self.tokens

    # Operations

    def _tag_of_result(self, name: str, arguments: tuple[Any, ...], options: Mapping[str, Any], result: Tensor) -> Tag | None:
        if name in LINEAR:
            return self._project(name, arguments, options, result)
        if name in ("cat", "concat", "concatenate"):
            return self._join(arguments, options, result)
        operands = [*arguments, *(value for key, value in options.items() if key in ("input", "other"))]
        tagged = [(value, tag) for value in operands if (tag := self.tag(value)) is not None and not isinstance(tag, Weight)]
        if not tagged:
            if name in COPIES and arguments and isinstance(weight := self.tag(arguments[0]), Weight):
                return weight
            return None
        first, tag = tagged[0]
        if isinstance(tag, Normed):
            keeps = name in COPIES or name in ROWWISE or name in PRODUCTS
            return tag if keeps and len(tagged) == 1 and result.shape[-1:] == first.shape[-1:] else None
        if name in COPIES and first.shape == result.shape:
            return tag
        produced = next((tag for _, tag in tagged if isinstance(tag, Produced)), None)
        if produced is not None:
            return replace(produced, changed=True) if result.shape == produced.product.post.shape else None
        if name in NONLINEAR and first.shape == result.shape and len(tagged) == 1:
            return self._activate(first, tag)
        if name in AFFINE:
            return self._combine(name, tagged, result)
        return tag if isinstance(tag, Chosen) and result.shape[:1] == first.shape[:1] else None

    def _activate(self, value: Tensor, tag: Tag) -> Tag | None:
        if isinstance(tag, Projected):
            return Activated(self._original(value), tag)
        return tag if isinstance(tag, Activated) else None

    def _original(self, value: Tensor) -> Tensor:
        """The copy of a tensor that an operation has just overwritten, or the tensor."""
        return value if self._overwritten is None else self._overwritten

    def _combine(self, name: str, tagged: Sequence[tuple[Tensor, Tag]], result: Tensor) -> Tag | None:
        """The tag of a sum, difference or product."""
        first, tag = tagged[0]
        if len(tagged) == 1:
            if first.shape != result.shape:
                return None
            return replace(tag, step=tag.step + 1) if isinstance(tag, Projected) else tag
        (first, tag), (second, other) = tagged[:2]
        if isinstance(tag, Projected) and isinstance(other, Activated):
            (first, tag), (second, other) = (second, other), (first, tag)
        if isinstance(tag, Activated) and isinstance(other, Projected):
            if tag.source.is_of(other):
                # The gate is what σ as a whole is applied to: of input * sigmoid(1.7 * input) it is input.
                return Activated(second, other) if other.step < tag.source.step else tag
            if name in PRODUCTS and first.shape == second.shape and _same_input(tag.source, other):
                return self._multiply(first, tag, second, other, result)
            return None
        if isinstance(tag, Activated) and isinstance(other, Activated):
            if tag.source.is_of(other.source):
                return tag if tag.source.step <= other.source.step else other
            if name in PRODUCTS and first.shape == second.shape and _same_input(tag.source, other.source):
                # A factor that is only bounded, so that it keeps its sign, is no activation.
                if self._is_odd(other.gate, second):
                    return self._multiply(first, tag, second, other.source, result)
                if self._is_odd(tag.gate, first):
                    return self._multiply(second, other, first, tag.source, result)
            return None
        if isinstance(tag, Projected) and isinstance(other, Projected) and first.shape == second.shape == result.shape:
            if tag.is_of(other):
                return Activated(first, tag) if name in PRODUCTS else tag
            if name in ("add", "__add__", "add_", "__iadd__"):
                # A projection with an adapter beside it.
                return replace(tag, step=tag.step + 1)
        return None

    def _multiply(self, first: Tensor, act: Activated, second: Tensor, in_: Projected, result: Tensor) -> Produced:
        act_tensor, in_tensor = (self._original(value) if value is result else value for value in (first, second))
        product = Product(act.gate, in_tensor, act_tensor, result, act.source, in_, self._function(act.gate, act_tensor))
        if self.on_product is not None:
            self.on_product(product)
        return Produced(product, changed=False)

    def _function(self, gate: Tensor, act: Tensor) -> Callable[[Tensor], Tensor]:
        """The operations that made act from gate, as a function."""
        made_by = self._made_by

        def replay(argument: Any, gate_value: Tensor) -> Any:
            if argument is gate:
                return gate_value
            if not isinstance(argument, Tensor) or id(argument) not in made_by:
                return argument
            function, arguments, options = made_by[id(argument)]
            return function(*(replay(operand, gate_value) for operand in arguments), **options)

        # A copy, because an operation may have worked in place.
        return lambda value: replay(act, value.clone())

    def _is_odd(self, argument: Tensor, value: Tensor) -> bool:
        """Whether `value` is an odd function of `argument`."""
        points = torch.linspace(-4, 4, 101, device="cpu")
        function = self._function(argument, value)
        try:
            return torch.allclose(function(points), -function(-points))
        except (RuntimeError, NotImplementedError):  # it depends on more than its argument
            return False

    def _project(self, name: str, arguments: tuple[Any, ...], options: Mapping[str, Any], result: Tensor) -> Tag | None:
        if name in ("addmm", "baddbmm"):
            arguments = arguments[1:]
        elif name == "__rmatmul__":
            arguments = arguments[::-1]
        operands = [*arguments, *(options[key] for key in ("input", "weight", "other", "mat2") if key in options)][:2]
        tags = [self.tag(operand) for operand in operands]
        at = next((index for index, tag in enumerate(tags) if isinstance(tag, Weight)), None)
        if at is None or len(operands) < 2 or operands[at].dim() < 2:
            return None
        weight, other = tags[at], tags[1 - at]
        assert isinstance(weight, Weight)
        # In `linear` and where the weight stands first the weight seen is [outputs, inputs].
        outputs_first = name == "linear" or at == 0
        axis = result.dim() - 2 if at == 0 else result.dim() - 1
        shape = [1] * result.dim()
        shape[axis] = result.shape[axis]
        with torch._C.DisableTorchFunction(), torch.device("cpu"):
            columns = torch.arange(result.shape[axis]).view(shape).expand(result.shape)
        rows = other.rows if isinstance(other, Chosen) else None
        projected = Projected(weight, outputs_first == weight.transposed, operands[1 - at], columns, rows=rows)
        if isinstance(other, Produced) and self.on_entry is not None:
            self.on_entry(other, projected)
        return projected

    def _join(self, arguments: tuple[Any, ...], options: Mapping[str, Any], result: Tensor) -> Tag | None:
        """Projections of one weight by several experts, one below the other."""
        tags = [tag for joined in arguments[0] if isinstance(tag := self.tag(joined), Projected)]
        if not tags or len(tags) != len(arguments[0]) or _axis(1, arguments, options) != 0:
            return None
        first = tags[0]
        if any(tag.weight.parameter is not first.weight.parameter or tag.weight.expert is None for tag in tags):
            return None
        if any(tag.rows is None for tag in tags):
            rows = experts = None
        else:
            rows = torch.cat([tag.rows for tag in tags if tag.rows is not None])
            lengths = torch.tensor([len(tag.rows) for tag in tags if tag.rows is not None])
            experts = torch.tensor([tag.weight.expert for tag in tags]).repeat_interleave(lengths)
        columns = first.column_of_neuron().expand(result.shape)
        whole = replace(first.weight, expert=None)
        return replace(first, weight=whole, input=result, columns=columns, rows=rows, experts=experts)


def _name_of(function: Function) -> str:
    name = getattr(function, "__name__", "")
    if name == "__get__":
        # The getter of a property: T, mT and the like.
        owner = getattr(function, "__self__", None)
        return getattr(owner, "__name__", name)
    return name


def _axis(index: int, arguments: Sequence[Any], options: Mapping[str, Any]) -> int:
    """The axis that cat, split or chunk were given, by name or as the argument at `index`."""
    return int(options.get("dim", arguments[index] if len(arguments) > index else 0))


def _same_input(first: Projected, second: Projected) -> bool:
    return first.input is second.input or (
        first.weight.parameter is second.weight.parameter and first.input.shape == second.input.shape
    )


def _view_of_weight(weight: Weight, name: str, arguments: tuple[Any, ...], view: Tensor) -> Weight | None:
    """What is seen of a weight: an expert's slice, a transposition, or experts on an axis of their own."""
    if name == "__getitem__":
        index = arguments[1]
        if view.dim() == len(weight.shape) - 1 and (isinstance(index, int) or (isinstance(index, Tensor) and index.dim() == 0)):
            has_value = isinstance(index, int) or index.device.type != "meta"
            return replace(weight, expert=int(index) if has_value else None) if len(weight.shape) > 2 else None
        # The slices of many experts at once.
        return weight if view.dim() == len(weight.shape) == 3 else None
    if name in ("t", "T", "mT", "transpose", "swapaxes", "swapdims"):
        return replace(weight, transposed=not weight.transposed)
    if name in ("view", "reshape", "unflatten") and view.dim() == 3 and len(weight.shape) == 2:
        return replace(weight, shape=view.shape)
    if view.shape == weight.parameter.shape:
        return weight
    return None


def _views_of_columns(
    tag: Projected,
    name: str,
    function: Function,
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
    views: Sequence[Tensor],
) -> list[Tensor | None]:
    """The columns of each view of a projected tensor, None where they cannot be told."""
    indices = arguments[1] if name == "__getitem__" else ()
    if any(isinstance(index, Tensor) for index in (indices if isinstance(indices, tuple) else (indices,))):
        return [None] * len(views)
    with torch._C.DisableTorchFunction():
        # What repeats along axes cannot always be viewed as the tensor itself can.
        look = Tensor.reshape if name == "view" else function
        seen = look(tag.columns, *arguments[1:], **options)
    of_views = [seen] if isinstance(seen, Tensor) else seen
    return [columns if columns.shape == view.shape else None for view, columns in zip(views, of_views, strict=True)]
