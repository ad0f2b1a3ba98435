"""The neurons of one layer at one checkpoint as rows: the columns of its tables that the overview is made from.

Statistics and weights of one layer are in memory at a time, so that memory does not grow with layers or checkpoints. Means over
a layer belong to `overview`, single neurons to `unusual`.
"""

import numpy as np
import numpy.typing as npt
import polars as pl

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import require_file
from gluscope_assets.core.paths import LayerTables
from gluscope_assets.core.quadrants import QUADRANTS

CLASSES = (
    "strengthening",
    "conditional strengthening",
    "proportional change",
    "orthogonal output",
    "conditional weakening",
    "weakening",
)
"""The input-output classes (Gerstner & Schütze 2025), from neurons that write what they read to those that take it back."""

COUNTS = tuple(f"{quadrant}_count" for quadrant in QUADRANTS)
LARGEST = tuple(f"{quadrant}_post_largest" for quadrant in QUADRANTS)
STATISTICS_COLUMNS = ("neuron", "mlp", "expert", "index", "positions", "routed", "zero", *COUNTS, *LARGEST)
WEIGHTS_COLUMNS = ("neuron", "orientation", "cos_gate_in", "cos_gate_out", "cos_in_out", "norm_out", "class", "atypical")


def read_rows(tables: LayerTables) -> pl.DataFrame:
    """`STATISTICS_COLUMNS` and `WEIGHTS_COLUMNS` of a layer, one row a neuron, raw, in the tables' order; cosines are float64.

    InputError if a table is missing, or if a neuron has a class that is none of `CLASSES`.
    """
    rows = (
        pl.scan_parquet(require_file(tables.statistics))
        .select(STATISTICS_COLUMNS)
        .join(
            pl.scan_parquet(require_file(tables.weights)).select(WEIGHTS_COLUMNS),
            on="neuron",
            how="left",
            maintain_order="left",
        )
        .with_columns(pl.col("cos_gate_in", "cos_gate_out", "cos_in_out", "norm_out").cast(pl.Float64))
        .collect()
    )
    unknown = rows.filter(~pl.col("class").is_in(CLASSES).fill_null(False))
    if len(unknown):
        raise InputError(
            f"{tables.weights} has the class {unknown['class'][0]} for neuron {unknown['neuron'][0]}, which is none of the "
            "six; delete it and run gluscope build."
        )
    return rows


def shares_of(rows: pl.DataFrame) -> npt.NDArray[np.float64]:
    """[neurons, 5]: the shares of the positions that a neuron saw in each quadrant, and in none."""
    counts: npt.NDArray[np.float64] = rows.select(*COUNTS, "zero").to_numpy().astype(np.float64)
    # Of the counts and not of `routed`, which is their sum: so the shares add up to 1 whatever is rounded.
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def seen_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of neurons that saw a position; an expert may have seen none."""
    return rows.filter(pl.col("routed") > 0)


def distances(before: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """`neuron` and `moved`, the total variation distance ½ Σ |p - q| of its raw shares, of neurons that saw a position at both.

    Raw, because the orientation of a neuron may flip while its weights hardly change, and in+ and in- would swap.
    """
    first, second = (seen_rows(frame).select("neuron", *COUNTS, "zero") for frame in (before, rows))
    both = second.join(first, on="neuron", suffix="_before", maintain_order="left")
    earlier = both.select("neuron", pl.col("^.*_before$").name.map(lambda name: name.removesuffix("_before")))
    distance = np.abs(shares_of(both) - shares_of(earlier)).sum(axis=1) / 2
    return both.select("neuron", moved=pl.Series(distance, dtype=pl.Float64))
