"""The oriented view of tables, for readers: a relabelling that is undone by doing it again.

With s = sign(w_gate · w_in), in and w_out multiplied by s, the model computes the same. What belongs here: the view of whole
tables; what each column does in it is declared in `schema`. How s is found belongs to `model/weights`, how pages show the view
to `pages`; tables are stored as the model computes them and are never written here.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import require_file
from gluscope_assets.core.paths import LayerTables
from gluscope_assets.core.quadrants import QUADRANTS, View, column, oriented_quadrant
from gluscope_assets.core.tables import schema
from gluscope_assets.core.tables.statistics import scan_statistics


def scan_neurons(aggregates: Sequence[Path], weights: Sequence[Path], view: View = "oriented") -> pl.LazyFrame:
    """Described statistics and weights of some layers of one checkpoint, one row a neuron, in the view asked for.

    `aggregates` are the layers' folders, `weights` their files of weights.
    """
    read = pl.scan_parquet([require_file(file) for file in weights]).drop("mlp", "expert", "index")
    joined = scan_statistics(aggregates).join(read, on=["layer", "neuron"], how="left", maintain_order="left")
    return orient(joined) if view == "oriented" else joined.with_columns(oriented=pl.lit(False))


def orient(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The oriented view of statistics, described or not, joined with `orientation`; also of columns of the weights tables.

    Where the orientation is -1, in+ and in- change places and what is odd in in changes its sign. The boolean column
    `oriented`, false where it is missing, is toggled: a second call gives back the first frame. InputError if the frame has
    no orientation, a column whose counterpart is missing, or columns of quadrants that are no statistics, such as lists of
    examples.
    """
    names = set(frame.collect_schema().names())
    if "orientation" not in names:
        raise InputError("The table has no column orientation; join it with the weights table on layer and neuron.")
    declared = {one.name: one for one in schema.neurons().columns if one.name in names}
    strange = sorted(name for name in names - declared.keys() if name.startswith(tuple(f"{one}_" for one in QUADRANTS)))
    if strange:
        raise InputError(f"The table holds {strange[0]}, and lists of examples are not oriented; leave out all but statistics.")
    turned = {}
    for name, one in declared.items():
        if one.counterpart not in names:
            raise InputError(f"The table has {name} and not {one.counterpart}, with which it changes places; select both.")
        if one.counterpart != name or one.changes_sign():
            turned[name] = _turned(one)
    flipped = pl.col("orientation") < 0
    return frame.with_columns(
        [pl.when(flipped).then(expression).otherwise(pl.col(name)).alias(name) for name, expression in turned.items()],
        oriented=~pl.col("oriented") if "oriented" in names else pl.lit(True),
    )


def _turned(declared: schema.Column) -> pl.Expr:
    """What a column holds where the orientation is -1."""
    other = pl.col(declared.counterpart)
    if not declared.changes_sign():
        return other
    if declared.type == schema.TOKEN_LIST:
        return other.list.eval(pl.element().struct.with_fields(score=-pl.field("score")))
    return -other


def scan_list(
    tables: LayerTables, quadrant: str, activation: str, view: View = "oriented", neuron: int | None = None
) -> pl.LazyFrame:
    """One list of a layer, of all neurons or one, one row an example, strongest first: in the view, with its quadrant there.

    Columns: layer, neuron, quadrant, activation, rank (from 1) and the fields of `schema.EXAMPLE`, gate and in as float32
    whatever the file keeps them in. `quadrant` is the raw one, by which lists are stored.
    """
    rows = pl.scan_parquet(require_file(tables.examples))
    if neuron is not None:
        rows = rows.filter(pl.col("neuron") == neuron)
    length, flipped = pl.col("entry").list.len(), pl.lit(False)
    entries = (
        rows.select("layer", "neuron", entry=pl.col(column(quadrant, activation)))
        .filter(length > 0)
        .with_columns(rank=pl.int_ranges(1, length + 1, dtype=pl.Int32))
        .explode("entry", "rank")
        .unnest("entry")
        .with_columns(pl.col("gate", "in").cast(pl.List(pl.Float32)))
    )
    if view == "oriented":
        signs = pl.scan_parquet(require_file(tables.weights)).select("neuron", "orientation")
        entries = entries.join(signs, on="neuron", how="left", maintain_order="left")
        flipped = pl.col("orientation") < 0
    fields = []
    for field in schema.EXAMPLE.stored:
        own = pl.col(field.name)
        if field.changes_sign(activation):
            turned = own.list.eval(-pl.element()) if pa.types.is_list(field.type) else -own
            own = pl.when(flipped).then(turned).otherwise(own).alias(field.name)
        fields.append(own)
    seen = pl.when(flipped).then(pl.lit(oriented_quadrant(quadrant, -1))).otherwise(pl.lit(quadrant))
    return entries.select("layer", "neuron", seen.alias("quadrant"), pl.lit(activation).alias("activation"), "rank", *fields)
