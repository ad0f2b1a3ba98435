"""The oriented view of tables, for readers: a relabelling that is undone by doing it again.

With s = sign(w_gate · w_in), in and w_out multiplied by s, the model computes the same. How s is found belongs to
`weights`, how pages show the view to `render`; tables are stored as the model computes them and are never written here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import require_file
from gluscope_assets.core.quadrants import LISTS, QUADRANTS, column, oriented_quadrant
from gluscope_assets.core.tables.aggregate import scan_statistics

ODD = {
    f"{column(quadrant, activation)}_{statistic}"
    for quadrant in QUADRANTS
    for activation in ("in", "post")
    for statistic in ("sum", "mean")
}
"""The statistics that change sign with in. Sizes, squares and counts do not."""

ODD_COSINES = ("cos_gate_in", "cos_gate_out")

EXCHANGED = {"promoted": "suppressed", "suppressed": "promoted", "in_positive": "in_negative", "in_negative": "in_positive"}
"""Token lists of the weights tables that change places, their scores negated."""


def scan_neurons(
    aggregates: Sequence[Path], weights: Sequence[Path], view: Literal["oriented", "raw"] = "oriented"
) -> pl.LazyFrame:
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
    no orientation, a column whose counterpart is missing, or lists of examples, which are not oriented here.
    """
    names = set(frame.collect_schema().names())
    if "orientation" not in names:
        raise InputError("The table has no column orientation; join it with the weights table on layer and neuron.")
    lists = sorted(names & {column(*ranked) for ranked in LISTS})
    if lists:
        raise InputError(f"The table holds lists of examples ({lists[0]}), which are not oriented; leave them out.")
    turned = {name: pl.col(_counterpart(name, names)) for name in names if _quadrant_of(name)}
    turned |= {name: -expression for name, expression in turned.items() if name in ODD}
    turned |= {name: -pl.col(name) for name in ODD_COSINES if name in names}
    for name, other in EXCHANGED.items():
        if name in names:
            negated = pl.element().struct.with_fields(score=-pl.field("score"))
            turned[name] = pl.col(_present(other, name, names)).list.eval(negated)
    flipped = pl.col("orientation") < 0
    return frame.with_columns(
        [pl.when(flipped).then(expression).otherwise(pl.col(name)).alias(name) for name, expression in turned.items()],
        oriented=~pl.col("oriented") if "oriented" in names else pl.lit(True),
    )


def _quadrant_of(name: str) -> str | None:
    return next((quadrant for quadrant in QUADRANTS if name.startswith(f"{quadrant}_")), None)


def _counterpart(name: str, names: set[str]) -> str:
    """The column of the other sign of in."""
    quadrant = _quadrant_of(name) or ""
    return _present(oriented_quadrant(quadrant, -1) + name.removeprefix(quadrant), name, names)


def _present(other: str, name: str, names: set[str]) -> str:
    if other not in names:
        raise InputError(f"The table has {name} and not {other}, with which it changes places; select both.")
    return other
