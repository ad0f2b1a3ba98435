"""What is stored, declared once: every column of every table, with its type, unit, meaning, null and oriented view.

What belongs here: the declarations, and what follows from them alone. Writers build their tables with `table_of`; readers and
checks, the oriented view, Dagster's column schemas, the dataset card, the statistics that may rank pages and the scripts of the
explorer ask the tables below when they run, so that a column that is added here arrives everywhere. What does not belong here:
how numbers are computed (`statistics`, `model/weights`), and how the lists of examples lie in memory (`examples`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import pyarrow as pa

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, ODD, QUADRANTS, column, oriented_quadrant

Oriented = Literal["unchanged", "odd", "as its activation"]
"""What happens to a value where the orientation is -1: nothing, its sign changes, or it does if that of its activation does.
Of lists of tokens the sign is that of their scores."""


@dataclass(frozen=True)
class Column:
    """A column, or one for each quadrant, activation or list if its name holds `{quadrant}`, `{activation}` or `{list}`."""

    name: str
    type: pa.DataType
    """float16 stands for float32 too, which a file has if one of its values does not fit."""
    meaning: str
    unit: str = ""
    """Of numbers that have one."""
    null: str = ""
    """Where or why it is null; nothing if it never is."""
    oriented: Oriented = "unchanged"
    exchanged_with: str = ""
    """The column that it changes places with where the orientation is -1. Columns of a quadrant do so with those of the
    quadrant with the other sign of in, and need not say it."""
    derived: bool = False
    """Whether it is not stored and follows from other columns (`statistics`)."""
    explorer: str = ""
    """The script of `pages/explorer_columns` that the explorer's field of its name needs; none if it has no field."""
    quadrant: str = ""
    activation: str = ""
    """What the name was filled with."""

    @property
    def statistic(self) -> str:
        """Its name without quadrant and activation, such as `sum_of_squares`."""
        prefix = "_".join(filter(None, (self.quadrant, self.activation)))
        return self.name.removeprefix(f"{prefix}_") if prefix else self.name

    @property
    def index(self) -> tuple[int, ...]:
        """Where it lies in an array with its statistic: () in [N], (quadrant,) in [Q, N], both in [Q, A, N]."""
        if not self.quadrant:
            return ()
        quadrant = QUADRANTS.index(self.quadrant)
        return (quadrant, ACTIVATIONS.index(self.activation)) if self.activation else (quadrant,)

    @property
    def counterpart(self) -> str:
        """The column that it takes its values from where the orientation is -1: itself, if it does not change places."""
        if not self.quadrant:
            return self.exchanged_with or self.name
        return oriented_quadrant(self.quadrant, -1) + self.name.removeprefix(self.quadrant)

    @property
    def is_numeric(self) -> bool:
        """Whether neurons can be ranked by it."""
        return bool(pa.types.is_integer(self.type) or pa.types.is_floating(self.type))

    @property
    def description(self) -> str:
        """What it means and when it is null, as a sentence, with the unit."""
        null = f"null {self.null}" if self.null and "null" not in self.meaning else ""
        sentence = "; ".join(filter(None, (self.meaning, null)))
        return f"{sentence[0].upper()}{sentence[1:]}{f' ({self.unit})' if self.unit else ''}."

    def changes_sign(self, activation: str = "") -> bool:
        """Whether its values change their signs where the orientation is -1; `activation` is what the list it is in is by."""
        return self.oriented == "odd" or (self.oriented == "as its activation" and (activation or self.activation) in ODD)

    def filled(self, placeholder: str, value: str, quadrant: str = "", activation: str = "") -> "Column":
        """Itself with `{placeholder}` replaced by `value` in its names, which is of a quadrant, an activation or both."""
        name, explorer = (text.replace(f"{{{placeholder}}}", value) for text in (self.name, self.explorer))
        quadrant, activation = quadrant or self.quadrant, activation or self.activation
        return replace(self, name=name, explorer=explorer, quadrant=quadrant, activation=activation)


@dataclass(frozen=True)
class Table:
    """The columns of a table, or the fields of a struct, in their order."""

    declared: tuple[Column, ...]
    """As the dataset card lists them: some stand for several, and some are derived."""

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Each for itself. Neighbours that vary by quadrant alternate within a quadrant, likewise with activations in it."""
        return tuple(_each(self.declared))

    @cached_property
    def stored(self) -> tuple[Column, ...]:
        """Those in files, in the files' order."""
        return tuple(column for column in self.columns if not column.derived)

    @cached_property
    def derived(self) -> tuple[Column, ...]:
        """Those that readers add, in their order."""
        return tuple(column for column in self.columns if column.derived)

    def __getitem__(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    @property
    def struct(self) -> pa.StructType:
        """The type of a struct with these fields."""
        return pa.struct([(column.name, column.type) for column in self.stored])

    def check(self, stored: pa.Schema, path: Path) -> None:
        """InputError if a file lacks a column or has one of another type. It may have columns that are not declared."""
        for declared in self.stored:
            if declared.name not in stored.names:
                raise InputError(f"{path} lacks the column {declared.name}; delete it and run gluscope build.")
            kind = stored.field(declared.name).type
            if not _fits(kind, declared.type):
                raise InputError(
                    f"{path}: {declared.name} is {kind} and should be {declared.type}; delete it and run gluscope build."
                )


def table_of(table: Table, columns: Mapping[str, pa.Array | npt.NDArray[Any] | Sequence[Any]]) -> pa.Table:
    """The columns of a table, by name, in the order and with the types that are declared.

    Arrays must have the declared type; sequences of Python's own objects get it. ValueError if a column is missing, is not
    declared, or has another type.
    """
    undeclared = sorted(columns.keys() - {declared.name for declared in table.stored})
    if undeclared:
        raise ValueError(f"The column {undeclared[0]} is not declared in the schema.")
    arrays = {}
    for declared in table.stored:
        if declared.name not in columns:
            raise ValueError(f"The column {declared.name} is declared in the schema and was not given.")
        cells = columns[declared.name]
        if not isinstance(cells, pa.Array):
            cells = pa.array(cells, declared.type if isinstance(cells, list) else None)
        if not _fits(cells.type, declared.type):
            raise ValueError(f"The column {declared.name} is {cells.type}; it is declared as {declared.type}.")
        arrays[declared.name] = cells
    return pa.table(arrays)


def widest(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    """The type that holds the values of two files' columns: float32 for float16, at any depth, where either is float32."""
    if pa.types.is_list(first):
        return pa.list_(first.value_field.with_type(widest(first.value_type, second.value_type)))
    if pa.types.is_struct(first):
        return pa.struct([field.with_type(widest(field.type, second.field(field.name).type)) for field in first])
    return second if pa.types.is_float16(first) else first


def _fits(actual: pa.DataType, declared: pa.DataType) -> bool:
    """Whether a column may be of a type: the declared one, or with float32 for float16. Names inside of lists do not matter."""
    if pa.types.is_list(declared):
        return bool(pa.types.is_list(actual)) and _fits(actual.value_type, declared.value_type)
    if pa.types.is_struct(declared):
        if not pa.types.is_struct(actual) or [field.name for field in actual] != [field.name for field in declared]:
            return False
        return all(_fits(one.type, other.type) for one, other in zip(actual, declared, strict=True))
    return bool(actual == declared) or (pa.types.is_float16(declared) and pa.types.is_float32(actual))


FILLINGS: tuple[tuple[str, list[dict[str, str]]], ...] = (
    ("quadrant", [{"value": quadrant, "quadrant": quadrant} for quadrant in QUADRANTS]),
    ("activation", [{"value": activation, "activation": activation} for activation in ACTIVATIONS]),
    ("list", [{"value": column(*ranked), "quadrant": ranked[0], "activation": ranked[1]} for ranked in LISTS]),
)
"""What names may hold in braces, the slowest first, and what it stands for."""


def _each(columns: Iterable[Column], fillings: Sequence[tuple[str, list[dict[str, str]]]] = FILLINGS) -> Iterator[Column]:
    """Each column for itself."""
    if not fillings:
        yield from columns
        return
    (placeholder, names), *faster = fillings
    for varies, run in groupby(columns, key=lambda one: f"{{{placeholder}}}" in one.name):
        neighbours = list(run)
        runs = [[one.filled(placeholder, **filling) for one in neighbours] for filling in names] if varies else [neighbours]
        for filled in runs:
            yield from _each(filled, faster)


# The tables

INT32, INT64, HALF, FLOAT, DOUBLE = pa.int32(), pa.int64(), pa.float16(), pa.float32(), pa.float64()
STRING = pa.string()
TOKEN_LIST = pa.list_(pa.struct([("token", INT32), ("score", FLOAT)]))

SEES_ALL = "for a neuron that sees all tokens"
EMPTY = "where the quadrant has no position"
EMPTY_OR_IMPORTED = f"{EMPTY}, and in imported tables"
IMPORTED = "in imported tables, until windows are filled"
NOT_ROUTED = "where it was not routed to the neuron's expert"

# fmt: off
IDENTITY = (
    Column("layer", INT32, "from 0", explorer="summary"),
    Column("neuron", INT32, "from 0, in its layer", explorer="summary"),
    Column("mlp", STRING, "the path of the neuron's gated MLP inside the layer"),
    Column("expert", INT32, "null for a neuron that sees all tokens", null=SEES_ALL, explorer="summary"),
    Column("index", INT32, "the neuron's place in its MLP or expert", explorer="summary"),
)
"""The columns that all tables with a row a neuron begin with."""

STATISTICS = Table((
    *IDENTITY,
    Column("routed", INT64, "counted positions that the neuron sees: all, or those routed to its expert", "positions",
           explorer="summary"),
    Column("positions", INT64, "all counted positions of the corpus", "positions"),
    Column("zero", INT64, "where gate or in is exactly 0", "positions"),
    Column("{quadrant}_count", INT64, "where gate and in have these signs; with zero they add up to routed", "positions",
           explorer="summary"),
    Column("{quadrant}_frequency", DOUBLE, "count / positions", "share", derived=True),
    Column("{quadrant}_routed_frequency", DOUBLE, "count / routed", "share", derived=True, explorer="summary"),
    Column("{quadrant}_{activation}_sum", DOUBLE,
           "over the quadrant's positions; null where it has none, as all that follow", "activation",
           null=EMPTY, oriented="as its activation"),
    Column("{quadrant}_{activation}_sum_of_squares", DOUBLE, "over the quadrant's positions", "activation²",
           null=EMPTY_OR_IMPORTED),
    Column("{quadrant}_{activation}_largest", FLOAT, "largest |value|", "activation",
           null=EMPTY, explorer="{activation}-largest"),
    Column("{quadrant}_{activation}_mean", DOUBLE, "sum / count", "activation",
           null=EMPTY, oriented="as its activation", derived=True, explorer="{activation}-mean"),
    Column("{quadrant}_{activation}_std", DOUBLE, "standard deviation of the population", "activation",
           null=EMPTY_OR_IMPORTED, derived=True, explorer="{activation}-std"),
))
"""statistics.parquet of an aggregate or a shard, and what readers add to it."""

EXAMPLE = Table((
    Column("value", FLOAT, "the ranked activation at the peak", "activation", oriented="as its activation"),
    Column("post", FLOAT, "post at the peak", "activation", null=IMPORTED, oriented="odd"),
    Column("text", INT32, "the text's row in the tokenized corpus"),
    Column("position", INT32, "the peak's place in its text", "tokens", null=IMPORTED),
    Column("start", INT32, "the place of the window's first token in the text", "tokens", null=IMPORTED),
    Column("token", pa.list_(INT32), "the window's token ids; the peak is at position - start"),
    Column("gate", pa.list_(HALF), "of each token of the window; null where it was not routed to the neuron's expert",
           "activation", null=NOT_ROUTED),
    Column("in", pa.list_(HALF), "as gate", "activation", null=NOT_ROUTED, oriented="odd"),
))
"""The fields of an example, in lists of examples.parquet."""

EXAMPLES = Table((
    *IDENTITY,
    Column("{list}", pa.list_(EXAMPLE.struct),
           "the texts that drive the neuron hardest in a quadrant by |activation|, one entry a text, strongest first"),
))
"""examples.parquet of an aggregate or a shard."""

SAMPLE = Table((
    *IDENTITY,
    Column("gate", pa.list_(HALF), "of each sampled position, in their order", "activation", null=NOT_ROUTED),
    Column("in", pa.list_(HALF), "as gate", "activation", null=NOT_ROUTED, oriented="odd"),
))
"""sample.parquet of an aggregate or a shard."""

POSITIONS = Table((
    Column("hash", pa.uint64(), "what chose the position; the table is sorted by it"),
    Column("text", INT32, "the text's row in the tokenized corpus"),
    Column("position", INT32, "the place in the text", "tokens"),
    Column("token", INT32, "the token's id"),
))
"""positions.parquet of an aggregate or a shard: the sampled positions, the same for all neurons."""

WEIGHTS = Table((
    *IDENTITY,
    Column("orientation", pa.int8(), "s = sign(w_gate · w_in), 0 counting as +1", "sign", explorer="summary"),
    Column("cos_gate_in", FLOAT, "of w_gate and w_in, the scale of the norm before the MLP folded in", "cosine",
           oriented="odd", explorer="summary"),
    Column("cos_gate_out", FLOAT, "of w_gate and w_out", "cosine", oriented="odd", explorer="summary"),
    Column("cos_in_out", FLOAT, "of w_in and w_out", "cosine", explorer="summary"),
    Column("norm_gate", FLOAT, "of w_gate", "length"),
    Column("norm_in", FLOAT, "of w_in", "length"),
    Column("norm_out", FLOAT, "of w_out", "length"),
    Column("class", STRING, "the input-output class that the cosines give (threshold 0.5)", explorer="summary"),
    Column("atypical", pa.bool_(), "whether the cosines' signs do not fit each other", explorer="summary"),
    Column("promoted", TOKEN_LIST, "tokens that w_out raises most: list of {token, score}", "logit",
           oriented="odd", exchanged_with="suppressed", explorer="tokens-out"),
    Column("suppressed", TOKEN_LIST, "tokens that w_out lowers most", "logit",
           oriented="odd", exchanged_with="promoted", explorer="tokens-out"),
    Column("gate_positive", TOKEN_LIST, "tokens whose embedding raises gate most", "score", explorer="tokens-gate"),
    Column("gate_negative", TOKEN_LIST, "tokens whose embedding lowers gate most", "score", explorer="tokens-gate"),
    Column("in_positive", TOKEN_LIST, "tokens whose embedding raises in most", "score",
           oriented="odd", exchanged_with="in_negative", explorer="tokens-in"),
    Column("in_negative", TOKEN_LIST, "tokens whose embedding lowers in most", "score",
           oriented="odd", exchanged_with="in_positive", explorer="tokens-in"),
))
"""A layer's file of weights."""

TEXTS = Table((
    Column("text", INT32, "the text's row, from 0"),
    Column("document", STRING, "the document that the text was cut from"),
    Column("start", INT64, "where the text begins in its document", "tokens"),
    Column("token", pa.list_(INT32), "the text's token ids"),
    Column("pack", INT32, "the pack that the text is forwarded in"),
    Column("shard", INT32, "the corpus shard of the text"),
))
"""The tokenized corpus."""
# fmt: on


def neurons() -> Table:
    """What is known of a neuron: `checkpoint` and the columns of `scan_neurons`, statistics first, then weights."""
    identity = {column.name for column in IDENTITY}
    return Table(
        (
            Column("checkpoint", STRING, "name and the first digits of the weights' hash; the folder's name"),
            *STATISTICS.declared,
            *(column for column in WEIGHTS.declared if column.name not in identity),
        )
    )


def rankable() -> tuple[str, ...]:
    """The statistics that page selections may rank neurons by: the numeric columns of `scan_neurons`."""
    return tuple(column.name for column in neurons().columns if column.is_numeric)
