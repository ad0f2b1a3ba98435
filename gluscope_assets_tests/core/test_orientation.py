"""The oriented view of tables: its own inverse, and what pages and lists of names say it is."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from gluscope_assets.core.aggregate import describe
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.orientation import orient
from gluscope_assets.core.quadrants import ACTIVATIONS, QUADRANTS, column, oriented_quadrant

TOKENS = pl.List(pl.Struct({"token": pl.Int32, "score": pl.Float32}))
SCORES = st.floats(-10, 10, width=32)


def row_of(draw: st.DrawFn) -> dict[str, Any]:
    """A neuron of raw positions: its statistics, its weights and its orientation."""
    values = draw(
        st.lists(st.tuples(st.sampled_from([-1.5, -0.5, 0.25, 2.0]), st.sampled_from([-3.0, -1.0, 0.5, 1.0])), max_size=8)
    )
    row: dict[str, Any] = {"positions": len(values) + 1, "routed": len(values) + 1, "zero": 1}
    for quadrant in QUADRANTS:
        gate_sign, in_sign = (1 if quadrant[place] == "+" else -1 for place in (4, -1))
        inside = [(g, u) for g, u in values if np.sign(g) == gate_sign and np.sign(u) == in_sign]
        row[f"{quadrant}_count"] = len(inside)
        for activation in ACTIVATIONS:
            act = [g / (1 + math.exp(-g)) for g, _ in inside]
            cells = {
                "gate": [g for g, _ in inside],
                "in": [u for _, u in inside],
                "act": act,
                "post": [a * u for a, (_, u) in zip(act, inside, strict=True)],
            }[activation]
            prefix = column(quadrant, activation)
            row[f"{prefix}_sum"] = math.fsum(cells) if cells else None
            row[f"{prefix}_sum_of_squares"] = math.fsum(cell * cell for cell in cells) if cells else None
            row[f"{prefix}_largest"] = max(map(abs, cells)) if cells else None
    row["orientation"] = draw(st.sampled_from([-1, 1]))
    row |= {name: draw(st.floats(-1, 1, width=32)) for name in ("cos_gate_in", "cos_gate_out", "cos_in_out")}
    for name in ("promoted", "suppressed", "gate_positive", "in_positive", "in_negative"):
        entries = st.lists(
            st.builds(lambda token, score: {"token": token, "score": score}, st.integers(0, 9), SCORES), max_size=3
        )
        row[name] = draw(st.none() | entries)
    return row


@st.composite
def tables(draw: st.DrawFn) -> pl.LazyFrame:
    rows = [row_of(draw) for _ in range(draw(st.integers(1, 4)))]
    schema: dict[str, pl.DataType | type[pl.DataType]] = {}
    for name in rows[0]:
        if name.endswith("_largest") or name.startswith("cos_"):
            schema[name] = pl.Float32
        elif name.endswith(("_sum", "_sum_of_squares")):
            schema[name] = pl.Float64
        elif name == "orientation":
            schema[name] = pl.Int8
        else:
            schema[name] = TOKENS if isinstance(rows[0][name], list | None) else pl.Int64
    return pl.DataFrame(rows, schema=schema).lazy()


@settings(deadline=None, max_examples=50)
@given(table=tables(), described=st.booleans(), marked=st.booleans())
def test_orienting_twice_is_the_identity(table: pl.LazyFrame, described: bool, marked: bool) -> None:
    frame = describe(table) if described else table
    if marked:
        frame = frame.with_columns(oriented=pl.lit(False))
    once, twice = orient(frame).collect(), orient(orient(frame)).collect()
    assert once["oriented"].all()
    assert_frame_equal(twice if marked else twice.drop("oriented"), frame.collect(), check_exact=True)
    assert not twice["oriented"].any()


@settings(deadline=None, max_examples=50)
@given(table=tables())
def test_the_oriented_view_of_statistics_describes_negated_ins(table: pl.LazyFrame) -> None:
    raw = describe(table).collect()
    for before, after in zip(raw.iter_rows(named=True), orient(describe(table)).collect().iter_rows(named=True), strict=True):
        sign = before["orientation"]
        for quadrant in QUADRANTS:
            source = oriented_quadrant(quadrant, sign)
            for name in ("count", "frequency", "routed_frequency"):
                assert after[f"{quadrant}_{name}"] == before[f"{source}_{name}"]
            for activation in ACTIVATIONS:
                factor = sign if activation in ("in", "post") else 1
                for statistic, odd in {"sum": factor, "mean": factor, "sum_of_squares": 1, "std": 1, "largest": 1}.items():
                    value = before[f"{column(source, activation)}_{statistic}"]
                    expected = None if value is None else odd * value
                    shown = after[f"{column(quadrant, activation)}_{statistic}"]
                    # An empty quadrant's mean is null / 0: null, in both views.
                    assert shown == expected or (shown is not None and math.isnan(shown) and math.isnan(expected)), quadrant
        assert after["cos_gate_in"] == sign * before["cos_gate_in"]
        assert after["cos_gate_out"] == sign * before["cos_gate_out"]
        assert after["cos_in_out"] == before["cos_in_out"]
        assert after["gate_positive"] == before["gate_positive"]
        for name, other in (("promoted", "suppressed"), ("in_negative", "in_positive")):
            source_list = before[other if sign < 0 else name]
            expected_list = source_list and [{**entry, "score": sign * entry["score"]} for entry in source_list]
            assert after[name] == expected_list


def test_types_order_and_other_columns_stay() -> None:
    frame = pl.LazyFrame(
        {"neuron": [0, 1], "gate+_in+_count": [3, 1], "gate+_in-_count": [0, 2], "orientation": [1, -1], "class": ["a", "b"]},
        schema_overrides={"orientation": pl.Int8},
    )
    oriented = orient(frame).collect()
    assert oriented.columns == [*frame.collect_schema().names(), "oriented"]
    assert oriented.schema["orientation"] == pl.Int8
    assert oriented.rows() == [(0, 3, 0, 1, "a", True), (1, 2, 1, -1, "b", True)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"gate+_in+_count": [1], "gate+_in-_count": [1]}, "no column orientation"),
        ({"gate+_in+_count": [1], "orientation": [1]}, "not gate+_in-_count"),
        ({"promoted": [[]], "orientation": [1]}, "not suppressed"),
        ({"gate+_in+_post": [[]], "gate+_in-_post": [[]], "orientation": [1]}, "lists of examples"),
    ],
)
def test_a_table_that_cannot_be_oriented_says_why(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("+", r"\+")):
        orient(pl.LazyFrame(columns))
