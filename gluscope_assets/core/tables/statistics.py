"""Statistics as readers get them: with shares, means and standard deviations, which are stored as counts, sums and squares.

What belongs here: the formulas of the derived columns that `schema` declares, each once, and the scans of many layers. What
does not: the oriented view (`orientation`), and what pages or the overview make of the numbers. polars is imported inside
functions, because pages are made without it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gluscope_assets.core.files import require_file
from gluscope_assets.core.paths import STATISTICS_FILE
from gluscope_assets.core.quadrants import column
from gluscope_assets.core.tables import schema

if TYPE_CHECKING:
    import polars as pl

Numbers = TypeVar("Numbers", npt.NDArray[np.float64], "pl.Expr")


def describe(statistics: "pl.LazyFrame") -> "pl.LazyFrame":
    """Add `{quadrant}_frequency`, `{quadrant}_routed_frequency`, and each activation's `_mean` and `_std` (population).

    The first is the share of all counted positions, the second that of those routed to the neuron's expert. They are the
    same for a neuron that sees all tokens.
    """
    import polars as pl

    return statistics.with_columns([_derived(one, pl.col, pl.Expr.sqrt).alias(one.name) for one in schema.STATISTICS.derived])


def described(statistics: pa.Table) -> pa.Table:
    """What `describe` gives, of a table in memory and computed with numpy: the same numbers, and null for NaN."""

    def numbers(name: str) -> npt.NDArray[np.float64]:
        return np.asarray(statistics[name].to_numpy(), dtype=np.float64)

    with np.errstate(invalid="ignore", divide="ignore"):
        for one in schema.STATISTICS.derived:
            statistics = statistics.append_column(one.name, pa.array(_derived(one, numbers, np.sqrt), from_pandas=True))
    return statistics


def scan_statistics(folders: Sequence[Path]) -> "pl.LazyFrame":
    """The described statistics of several aggregates' folders, one row a neuron."""
    import polars as pl

    return describe(pl.scan_parquet([require_file(folder / STATISTICS_FILE) for folder in folders]))


def _derived(derived: schema.Column, stored: Callable[[str], Numbers], root: Callable[[Numbers], Numbers]) -> Numbers:
    """A derived column from columns that are stored, as numbers or as expressions."""
    count = stored(f"{derived.quadrant}_count")
    if derived.statistic == "frequency":
        return count / stored("positions")
    if derived.statistic == "routed_frequency":
        return count / stored("routed")
    prefix = column(derived.quadrant, derived.activation)
    mean = stored(f"{prefix}_sum") / count
    if derived.statistic == "mean":
        return mean
    if derived.statistic == "std":
        # Rounding may leave less than nothing.
        return root((stored(f"{prefix}_sum_of_squares") / count - mean**2).clip(0))
    raise ValueError(f"There is no formula for the derived column {derived.name}.")
