"""Derived statistics: numpy and polars give the same numbers, to the bit."""

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from gluscope_assets.core.tables import schema
from gluscope_assets.core.tables.statistics import describe, described

NUMBERS = st.floats(-1e6, 1e6)


@st.composite
def statistics(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(1, 4))
    counts = {one.name: [draw(st.integers(0, 3)) for _ in range(rows)] for one in schema.STATISTICS.stored if one.quadrant}
    columns: dict[str, Any] = {name: [draw(st.integers(0, 9)) for _ in range(rows)] for name in ("positions", "routed")}
    for one in schema.STATISTICS.stored:
        if one.activation:
            known = [draw(NUMBERS) if count else None for count in counts[f"{one.quadrant}_count"]]
            columns[one.name] = [None if one.statistic == "sum_of_squares" and draw(st.booleans()) else cell for cell in known]
        elif one.quadrant:
            columns[one.name] = counts[one.name]
    kinds = {one.name: one.type for one in schema.STATISTICS.stored}
    return pa.table({name: pa.array(cells, kinds[name]) for name, cells in columns.items()})


@given(table=statistics())
def test_numpy_and_polars_derive_the_same_numbers(table: pa.Table) -> None:
    here = described(table)
    there = describe(pl.from_arrow(table).lazy()).collect()
    assert here.column_names == there.columns
    assert here.column_names[table.num_columns :] == [one.name for one in schema.STATISTICS.derived]
    for name in there.columns:
        one, other = here[name].to_numpy(), there[name].to_numpy()
        # A share of no positions is NaN there and null here.
        assert np.array_equal(one.astype(np.float64), other.astype(np.float64), equal_nan=True), name


def test_null_is_what_nothing_is_known_of() -> None:
    row: dict[str, Any] = {one.name: None for one in schema.STATISTICS.stored if one.activation}
    row |= {f"{quadrant}_count": 0 for quadrant in ("gate+_in-", "gate-_in+", "gate-_in-")}
    row |= {"positions": 4, "routed": 2, "gate+_in+_count": 2, "gate+_in+_in_sum": 3.0}
    kinds = {one.name: one.type for one in schema.STATISTICS.stored}
    known = described(pa.table({name: pa.array([cell], kinds[name]) for name, cell in row.items()})).to_pylist()[0]
    assert (known["gate+_in+_frequency"], known["gate+_in+_routed_frequency"]) == (0.5, 1.0)
    assert (known["gate+_in+_in_mean"], known["gate+_in+_in_std"]) == (1.5, None)
    assert (known["gate-_in-_frequency"], known["gate-_in-_in_mean"]) == (0.0, None)
