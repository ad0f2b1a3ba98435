"""The oriented view of tables: its own inverse, and what pages and lists of names say it is."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from transformers import LlamaConfig, LlamaModel

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.core.model.weights import write_neuron_weights
from gluscope_assets.core.options import CheckpointOptions, CollectionOptions
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, column, oriented_quadrant
from gluscope_assets.core.tables.aggregate import write_aggregate
from gluscope_assets.core.tables.orientation import orient, scan_neurons
from gluscope_assets.core.tables.statistics import describe, scan_statistics
from gluscope_assets_tests.conftest import Workplace
from gluscope_assets_tests.support.reference import collect_merged, corpus_of

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


@settings(max_examples=50)
@given(table=tables(), described=st.booleans(), marked=st.booleans())
def test_orienting_twice_is_the_identity(table: pl.LazyFrame, described: bool, marked: bool) -> None:
    frame = describe(table) if described else table
    if marked:
        frame = frame.with_columns(oriented=pl.lit(False))
    once, twice = orient(frame).collect(), orient(orient(frame)).collect()
    assert once["oriented"].all()
    assert_frame_equal(twice if marked else twice.drop("oriented"), frame.collect(), check_exact=True)
    assert not twice["oriented"].any()


@settings(max_examples=50)
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


def test_the_oriented_aggregate_is_that_of_the_oriented_model(tmp_path: Path) -> None:
    """In and out weights multiplied by s give the same model, whose aggregate, as stored, is the oriented view."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    LlamaModel(config).save_pretrained(tmp_path / "model")
    checkpoint = resolve_checkpoint(CheckpointOptions(name="model", path=tmp_path / "model"))
    weights = write_neuron_weights(checkpoint, [0, 1], lambda layer: tmp_path / f"weights-{layer}.parquet", {})
    corpus = corpus_of([[1 + (7 * text + 3 * place) % 39 for place in range(9 + text)] for text in range(8)])
    options = CollectionOptions(examples=3, window_before=3, window_after=2, sample_positions=20)
    raw = LlamaModel.from_pretrained(tmp_path / "model").eval()
    turned = LlamaModel.from_pretrained(tmp_path / "model").eval()
    for layer, table in weights.items():
        sign = torch.tensor(table["orientation"].to_pylist(), dtype=torch.float32)
        assert 0 < (sign < 0).sum() < len(sign)
        with torch.no_grad():
            turned.layers[layer].mlp.up_proj.weight *= sign[:, None]
            turned.layers[layer].mlp.down_proj.weight *= sign
    for layer, table in weights.items():
        merged = {}
        for name, model in (("raw", raw), ("turned", turned)):
            merged[name] = collect_merged(model, corpus, options, tmp_path / f"{name}-{layer}", layer)
            write_aggregate(merged[name], tmp_path / f"{name}-aggregate", {})
        view = scan_neurons([tmp_path / "raw-aggregate"], [tmp_path / f"weights-{layer}.parquet"]).collect()
        expected = scan_statistics([tmp_path / "turned-aggregate"]).collect()
        assert_frame_equal(view.select(expected.columns), expected, check_exact=True)
        sign = np.array(table["orientation"].to_pylist())
        for number, (quadrant, activation) in enumerate(LISTS):
            for neuron, s in enumerate(sign):
                source = LISTS.index((oriented_quadrant(quadrant, int(s)), activation))
                odd = int(s) if activation in ("in", "post") else 1
                first, second = merged["raw"], merged["turned"]
                for name, factor in (
                    ("text", 1),
                    ("position", 1),
                    ("window_gate", 1),
                    ("window_in", s),
                    ("value", odd),
                    ("post", s),
                ):
                    assert np.array_equal(getattr(first, name)[source, neuron] * factor, getattr(second, name)[number, neuron])


def test_readers_get_the_oriented_view_unless_they_ask_for_the_raw_one(built_tiny: Workplace) -> None:
    key = next((built_tiny.folder.root / "aggregates").iterdir()).name
    aggregates = [built_tiny.folder.aggregate(key, layer) for layer in (0, 1)]
    weights = [built_tiny.folder.weights(key, layer) for layer in (0, 1)]
    raw, oriented = scan_neurons(aggregates, weights, "raw"), scan_neurons(aggregates, weights)
    assert_frame_equal(orient(raw), oriented)
    assert_frame_equal(orient(oriented), raw)
    assert (oriented.collect()["cos_gate_in"] >= 0).all()
    assert raw.collect().height == oriented.collect().height == 24
