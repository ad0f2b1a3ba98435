"""Page selections against brute force: which neurons a study's words name, in both views and both orders."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import write_parquet
from gluscope_assets.core.options import PageSelection, TopNeurons
from gluscope_assets.core.pages.selection import check_lists, chosen_neurons, top_neurons, with_lists
from gluscope_assets.core.pages.site_map import SiteMap
from gluscope_assets.core.paths import LayerTables
from gluscope_assets.core.quadrants import ACTIVATIONS, QUADRANTS, column, oriented_quadrant
from gluscope_assets.core.tables.orientation import scan_neurons
from gluscope_assets.core.tables.schema import rankable
from gluscope_assets_tests.conftest import Workplace

WIDTH = 7
LAYERS = (0, 1, 3)


def write_layer(folder: Path, layer: int, seed: int, width: int = WIDTH) -> LayerTables:
    """Tables with few different values, so that many neurons tie, with empty quadrants and neurons that no position meets."""
    aggregate, file = folder / f"{seed}-{layer}", folder / f"{seed}-{layer}.parquet"
    if file.is_file():
        return LayerTables("key", layer, aggregate, file)
    random = np.random.default_rng(seed)
    count = random.integers(0, 3, (4, width))
    count[:, random.random(width) < 0.2] = 0
    neurons = {
        "layer": pa.array(np.full(width, layer, dtype=np.int32)),
        "neuron": pa.array(np.arange(width, dtype=np.int32)),
        "mlp": pa.array(["mlp"] * width),
        "expert": pa.nulls(width, pa.int32()),
        "index": pa.array(np.arange(width, dtype=np.int32)),
    }
    statistics = {
        **neurons,
        "routed": pa.array(count.sum(axis=0)),
        "positions": pa.array(np.full(width, 8)),
        "zero": pa.array(np.zeros(width, dtype=np.int64)),
    }
    for place, quadrant in enumerate(QUADRANTS):
        statistics[f"{quadrant}_count"] = pa.array(count[place])
        for activation in ACTIVATIONS:
            for name in ("sum", "sum_of_squares", "largest"):
                values = random.integers(0 if name != "sum" else -2, 3, width).astype(np.float64)
                statistics[f"{column(quadrant, activation)}_{name}"] = pa.array(values, mask=count[place] == 0)
    weights = {
        **neurons,
        "orientation": pa.array(random.choice([-1, 1], width).astype(np.int8)),
        **{name: pa.array(random.integers(-1, 2, width).astype(np.float32) / 2) for name in rankable() if name[:4] == "cos_"},
        **{name: pa.array(np.ones(width, dtype=np.float32)) for name in rankable() if name[:5] == "norm_"},
    }
    write_parquet(pa.table(statistics), aggregate / "statistics.parquet", {})
    write_parquet(pa.table(weights), file, {})
    return LayerTables("key", layer, aggregate, file)


def read(tables: LayerTables) -> list[dict[str, Any]]:
    rows = pa.parquet.read_table(tables.statistics).to_pylist()
    known = pa.parquet.read_table(tables.weights).to_pylist()
    return [{**row, **more} for row, more in zip(rows, known, strict=True)]


def value_of(row: Mapping[str, Any], name: str, view: str) -> float | None:
    """A statistic of one neuron by plain arithmetic; None where there is none."""
    sign = row["orientation"] if view == "oriented" else 1
    if name in ("cos_gate_in", "cos_gate_out"):
        return float(sign * row[name])
    quadrant = next((quadrant for quadrant in QUADRANTS if name.startswith(f"{quadrant}_")), None)
    if quadrant is None:
        return float(row[name]) if row[name] is not None else None
    rest = name.removeprefix(f"{quadrant}_")
    raw = oriented_quadrant(quadrant, sign)
    count = row[f"{raw}_count"]
    if rest == "count":
        return float(count)
    if rest == "frequency":
        return count / row["positions"]
    if rest == "routed_frequency":
        return count / row["routed"] if row["routed"] else None
    if not count:
        return None
    activation, _, statistic = rest.partition("_")
    total, squares = row[f"{raw}_{activation}_sum"], row[f"{raw}_{activation}_sum_of_squares"]
    value = {
        "sum": total,
        "sum_of_squares": squares,
        "mean": total / count,
        "std": math.sqrt(max(squares / count - (total / count) ** 2, 0)),
        "largest": row[f"{raw}_{activation}_largest"],
    }[statistic]
    return float(sign * value if activation in ("in", "post") and statistic in ("sum", "mean") else value)


def brute_force(rows: list[dict[str, Any]], top: TopNeurons, view: str) -> list[tuple[int, int]]:
    def place(row: dict[str, Any]) -> tuple[bool, float, int, int]:
        value = value_of(row, top.by, view)
        size = 0.0 if value is None else -value if top.order == "descending" else value
        return value is None, size, row["layer"], row["neuron"]

    return [(row["layer"], row["neuron"]) for row in sorted(rows, key=place)[: top.top]]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 3),
    top=st.integers(1, 30),
    by=st.sampled_from(rankable()),
    order=st.sampled_from(["descending", "ascending"]),
    view=st.sampled_from(["oriented", "raw"]),
    layers=st.sets(st.sampled_from(LAYERS), min_size=1),
)
def test_the_top_is_that_of_a_plain_sort(
    tmp_path: Path,
    seed: int,
    top: int,
    by: str,
    order: Literal["descending", "ascending"],
    view: Literal["oriented", "raw"],
    layers: set[int],
) -> None:
    tables = [write_layer(tmp_path, layer, seed) for layer in sorted(layers)]
    ranking = TopNeurons(top=top, by=by, order=order)
    rows = [row for one in tables for row in read(one)]
    assert top_neurons(ranking, tables, view) == brute_force(rows, ranking, view)


@settings(max_examples=40)
@given(data=st.data())
def test_selections_hold_what_their_words_say(tmp_path: Path, data: st.DataObject) -> None:
    checkpoints = (("a-0000000", "a"), ("b-1111111", "b"))
    tables = {(key, layer): write_layer(tmp_path, layer, seed) for seed, (key, _) in enumerate(checkpoints) for layer in LAYERS}
    top = st.builds(
        TopNeurons,
        top=st.integers(1, 12),
        by=st.sampled_from(["gate-_in+_frequency", "cos_in_out", "gate+_in-_post_mean"]),
        of=st.sampled_from(["layer", "checkpoint"]),
        order=st.sampled_from(["descending", "ascending"]),
    )
    lists = st.lists(st.integers(0, WIDTH - 1), min_size=1, max_size=4).map(tuple)
    selection = st.builds(
        PageSelection,
        checkpoints=st.sampled_from(["last", "all", ("a",), ("a", "b")]),
        layers=st.one_of(st.just("all"), st.lists(st.sampled_from(LAYERS), min_size=1).map(tuple)),
        neurons=st.one_of(st.just("all"), st.integers(1, 10), lists, top),
    )
    selections = data.draw(st.lists(selection, max_size=3).map(tuple))
    resolved = with_lists(selections, checkpoints, LAYERS, tables, "oriented")
    site_map = SiteMap("s", "S", "m", "c", checkpoints, tuple((layer, WIDTH) for layer in LAYERS), resolved)
    for place, (key, name) in enumerate(checkpoints):
        for layer in LAYERS:
            expected: set[int] = set()
            for chosen in selections:
                named = {"all": ("a", "b"), "last": ("b",)}.get(str(chosen.checkpoints), chosen.checkpoints)
                held = [one for one in LAYERS if chosen.layers == "all" or one in chosen.layers]
                if name not in named or layer not in held:
                    continue
                neurons = chosen.neurons
                if neurons == "all":
                    expected.update(range(WIDTH))
                elif isinstance(neurons, int):
                    expected.update(range(min(neurons, WIDTH)))
                elif isinstance(neurons, tuple):
                    expected.update(neurons)
                else:
                    together = held if neurons.of == "checkpoint" else [layer]
                    rows = [row for one in together for row in read(tables[key, one])]
                    ranked = brute_force(rows, neurons, "oriented")
                    expected.update(neuron for of, neuron in ranked if of == layer)
            assert list(site_map.neurons(key, layer)) == sorted(expected), (place, layer)


def test_missing_values_come_last_in_both_orders(tmp_path: Path) -> None:
    tables = write_layer(tmp_path, 0, 1, width=40)
    name = "gate+_in+_routed_frequency"
    empty = {row["neuron"] for row in read(tables) if value_of(row, name, "raw") is None}
    assert 0 < len(empty) < 40
    for order in ("descending", "ascending"):
        ranked = [neuron for _, neuron in top_neurons(TopNeurons(top=40, by=name, order=order), [tables], "raw")]
        assert ranked[-len(empty) :] == sorted(empty)


def test_a_ranking_without_all_of_its_tables_gives_nothing(tmp_path: Path) -> None:
    tables = {("a-0000000", layer): write_layer(tmp_path, layer, 0) for layer in (0, 1)}
    checkpoints = (("a-0000000", "a"),)
    for of, kept in (("layer", [0, 1]), ("checkpoint", [])):
        selection = PageSelection(checkpoints="all", neurons=TopNeurons(top=3, by="routed", of=of))
        resolved = with_lists([selection], checkpoints, LAYERS, tables, "oriented")
        assert [one.layers for one in resolved] == [(layer,) for layer in kept]


def test_statistics_are_the_numeric_columns_of_the_tables(built_tiny: Workplace) -> None:
    aggregates = sorted(built_tiny.folder.root.glob("aggregates/first-*/layer-*"))
    weights = sorted(built_tiny.folder.root.glob("weights/first-*/layer-*.parquet"))
    for view in ("oriented", "raw"):
        schema = scan_neurons(aggregates, weights, view).collect_schema()  # type: ignore[arg-type]
        assert {name for name, kind in schema.items() if kind.is_numeric()} == set(rankable())


def test_lists_beyond_a_layer_are_refused() -> None:
    selection = PageSelection(checkpoints="all", layers=(1,), neurons=(2, 9))
    check_lists([selection], {0: 4, 1: 10})
    for refuse in (lambda: check_lists([selection], {0: 20, 1: 9}), lambda: chosen_neurons([selection], 1, 9)):
        with pytest.raises(InputError, match=r"site.pages lists neuron 9 in neurons, and layer 1 has only 9; leave it out"):
            refuse()


@pytest.mark.parametrize("neurons", ["some", 0, -1, [], [-1], [1.5], True, None, {"top": 3}, {"top": 0, "by": "routed"}])
def test_words_that_name_no_neurons_are_refused(neurons: object) -> None:
    with pytest.raises(ValidationError):
        PageSelection.model_validate({"checkpoints": "all", "neurons": neurons})
