"""The declared tables: they are what is stored, and a column that is added to them arrives everywhere."""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gluscope_assets.core.collect.verify import verify_aggregate
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.exchange.dataset import dataset_card
from gluscope_assets.core.exchange.paper_schema import export_paper, import_paper
from gluscope_assets.core.files import read_provenance, write_parquet
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets.core.pages.explorer_columns import groups
from gluscope_assets.core.pages.selection import check_statistic
from gluscope_assets.core.paths import LayerShards, LayerTables
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, column
from gluscope_assets.core.tables import aggregate as aggregate_module
from gluscope_assets.core.tables import schema
from gluscope_assets.core.tables.aggregate import Aggregate, read_aggregate, write_aggregate
from gluscope_assets.core.tables.examples import ExampleLists
from gluscope_assets.core.tables.orientation import orient, scan_list
from gluscope_assets.core.tables.schema import Column, Table, rankable, table_of, widest
from gluscope_assets.core.tables.statistics import describe
from gluscope_assets.orchestration.records import column_schema
from gluscope_assets_tests.conftest import Workplace
from gluscope_assets_tests.core.pages.test_explorer_columns import Script
from gluscope_assets_tests.support.layer_sources import sources_of, write_inputs
from gluscope_assets_tests.support.reference import TableModel, collect_in_memory, corpus_of
from gluscope_assets_tests.support.synthetic import Study

OPTIONS = CollectionOptions(examples=3, window_before=2, window_after=1, sample_positions=5)
CORPUS = corpus_of([[1, 2, 3], [4, 2, 1], [3, 3, 4, 1], [2], [0, 4]])

ODD = {
    *(f"{quadrant}_{activation}_{name}" for quadrant in QUADRANTS for activation in ("in", "post") for name in ("sum", "mean")),
    *("cos_gate_in", "cos_gate_out", "promoted", "suppressed", "in_positive", "in_negative"),
}
"""What changes its sign, or that of its scores, when in and w_out do."""
EXCHANGED = {"promoted": "suppressed", "suppressed": "promoted", "in_positive": "in_negative", "in_negative": "in_positive"}


def with_column(table: Table, added: Column, after: str) -> Table:
    names = [one.name for one in table.declared]
    return Table((*table.declared[: names.index(after) + 1], added, *table.declared[names.index(after) + 1 :]))


# What is declared is what is stored


def test_files_have_the_declared_columns_and_no_others(built_tiny: Workplace) -> None:
    folder = built_tiny.folder
    key, layer = folder.stored_aggregates()[0]
    aggregate = folder.aggregate(key, layer)
    for path, table in (
        (aggregate / "statistics.parquet", schema.STATISTICS),
        (aggregate / "examples.parquet", schema.EXAMPLES),
        (aggregate / "sample.parquet", schema.SAMPLE),
        (aggregate / "positions.parquet", schema.POSITIONS),
        (folder.weights(key, layer), schema.WEIGHTS),
        (folder.corpus, schema.TEXTS),
    ):
        stored = pq.read_schema(path)
        assert stored.names == [one.name for one in table.stored]
        table.check(stored, path)
        for name, cells in zip(stored.names, pq.read_table(path).columns, strict=True):
            assert table[name].null or not cells.null_count, name


def test_the_declared_view_is_that_of_in_and_out_weights_with_another_sign() -> None:
    neurons = schema.neurons()
    assert {one.name for one in neurons.columns if one.changes_sign()} == ODD
    moved = {one.name: one.counterpart for one in neurons.columns if one.counterpart != one.name}
    assert {name: other for name, other in moved.items() if not name.startswith("gate+") and name[:5] != "gate-"} == EXCHANGED
    assert moved["gate+_in+_act_largest"] == "gate+_in-_act_largest"
    assert all(moved[other] == name for name, other in moved.items())
    assert sum(bool(one.quadrant) for one in neurons.columns) == len(moved) - len(EXCHANGED)
    assert {one.name for one in schema.EXAMPLE.columns if one.changes_sign("gate")} == {"post", "in"}
    assert {one.name for one in schema.EXAMPLE.columns if one.changes_sign("post")} == {"value", "post", "in"}


def test_a_column_for_each_quadrant_and_activation_lies_where_its_numbers_do() -> None:
    one = schema.STATISTICS["gate-_in+_post_sum_of_squares"]
    assert (one.quadrant, one.activation, one.statistic, one.index) == ("gate-_in+", "post", "sum_of_squares", (2, 3))
    assert (schema.STATISTICS["gate-_in+_count"].statistic, schema.STATISTICS["gate-_in+_count"].index) == ("count", (2,))
    assert (schema.STATISTICS["zero"].statistic, schema.STATISTICS["zero"].index) == ("zero", ())
    assert [one.name for one in schema.EXAMPLES.columns[5:]] == [column(*ranked) for ranked in LISTS]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token": None}, "token is declared in the schema and was not given"),
        ({"colour": np.zeros(2)}, "colour is not declared"),
        ({"text": np.zeros(2, dtype=np.int64)}, "text is int64; it is declared as int32"),
    ],
)
def test_a_table_is_made_as_it_is_declared_or_not_at_all(change: dict[str, Any], message: str) -> None:
    columns = {"hash": np.arange(2, dtype=np.uint64), "text": [3, 4], "position": [0, 1], "token": [5, 6]}
    made = table_of(schema.POSITIONS, {name: columns[name] for name in reversed(columns)})
    assert made.schema == pa.schema([("hash", pa.uint64()), *((name, pa.int32()) for name in ("text", "position", "token"))])
    with pytest.raises(ValueError, match=message):
        table_of(schema.POSITIONS, {name: cells for name, cells in {**columns, **change}.items() if cells is not None})


def test_lists_of_wide_values_fit_and_are_united() -> None:
    def lists(gate: pa.DataType, in_: pa.DataType) -> pa.DataType:
        fields = {**{one.name: one.type for one in schema.EXAMPLE.stored}, "gate": pa.list_(gate), "in": pa.list_(in_)}
        return pa.list_(pa.struct(list(fields.items())))

    half, full = pa.float16(), pa.float32()
    assert schema.EXAMPLES["gate+_in+_gate"].type == lists(half, half)
    assert widest(lists(full, half), lists(half, half)) == lists(full, half) == widest(lists(half, half), lists(full, half))
    assert widest(lists(full, half), lists(half, full)) == lists(full, full)
    wide = {one.name: lists(full, half) if one.quadrant else one.type for one in schema.EXAMPLES.stored}
    schema.EXAMPLES.check(pa.schema(list(wide.items())), Path("examples.parquet"))
    strange = {**wide, "gate+_in+_gate": pa.list_(pa.struct([("value", full)]))}
    with pytest.raises(InputError, match=r"examples.parquet: gate\+_in\+_gate is list.*; delete it and run gluscope build"):
        schema.EXAMPLES.check(pa.schema(list(strange.items())), Path("examples.parquet"))


def test_the_schema_is_light() -> None:
    """Code servers load it with the definitions, processes that render with the pages."""
    heavy = "import sys; from gluscope_assets.core.tables import examples, schema, statistics; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "polars", "dagster"} & set(loaded)


# A made-up column

SMALLEST = Column(
    "{quadrant}_{activation}_smallest",
    pa.float32(),
    "smallest value, with its sign",
    "activation",
    null="where it has none",
    oriented="as its activation",
    explorer="{activation}-smallest",
)
NAMES = [f"{column(quadrant, activation)}_smallest" for quadrant in QUADRANTS for activation in ACTIVATIONS]


@dataclass
class WithSmallest(Aggregate):
    """An aggregate that measures one thing more."""

    smallest: np.ndarray
    """[Q, A, N]"""

    @classmethod
    def of(cls, aggregate: Aggregate) -> "WithSmallest":
        numbers = np.arange(aggregate.largest.size, dtype=np.float32).reshape(aggregate.largest.shape)
        return cls(**vars(aggregate), smallest=np.where(aggregate.count[:, None] > 0, numbers + 1, 0))


@pytest.fixture
def collected(tmp_path: Path) -> Path:
    """An aggregate as it is stored today."""
    torch.manual_seed(0)
    collect_in_memory(TableModel(torch.randn(5, 4), torch.randn(5, 4)), CORPUS, OPTIONS, tmp_path / "shards")
    return LayerShards(tmp_path / "shards", 0).shard(0)


@pytest.fixture
def smallest(collected: Path, monkeypatch: pytest.MonkeyPatch) -> WithSmallest:
    """The made-up column declared, and an aggregate that has it."""
    aggregate = WithSmallest.of(read_aggregate(collected))
    monkeypatch.setattr(schema, "STATISTICS", with_column(schema.STATISTICS, SMALLEST, "{quadrant}_{activation}_largest"))
    monkeypatch.setattr(aggregate_module, "Aggregate", WithSmallest)
    return aggregate


def provenance(collected: Path) -> dict[str, object]:
    footer = read_provenance(collected / "statistics.parquet")
    return {name: footer[name] for name in ("activation", "dtype")}


def test_a_made_up_column_is_written_and_read(collected: Path, smallest: WithSmallest, tmp_path: Path) -> None:
    write_aggregate(smallest, tmp_path / "wider", provenance(collected))
    table = pq.read_table(tmp_path / "wider/statistics.parquet")
    for name in NAMES:
        assert table.column_names[table.column_names.index(name) - 1] == name.replace("smallest", "largest")
        assert table[name].type == pa.float32()
        empty = [count == 0 for count in table[f"{name[:9]}_count"].to_pylist()]
        assert [cell is None for cell in table[name].to_pylist()] == empty
    again: Any = read_aggregate(tmp_path / "wider")
    assert np.array_equal(again.smallest, smallest.smallest)
    assert np.array_equal(again.sum, smallest.sum)


def test_a_made_up_column_is_checked(collected: Path, smallest: WithSmallest, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"statistics.parquet lacks the column gate\+_in\+_gate_smallest; delete it and run gluscope build"
    ):
        read_aggregate(collected)
    write_aggregate(smallest, tmp_path / "wider", provenance(collected))
    assert not any(verify_aggregate(tmp_path / "wider", CORPUS, OPTIONS).values())
    smallest.smallest[smallest.smallest > 0] = np.nan
    write_aggregate(smallest, tmp_path / "wider", provenance(collected))
    problems = verify_aggregate(tmp_path / "wider", CORPUS, OPTIONS)
    assert "smallest" in " ".join(problems["nothing_is_nan"])


def test_a_made_up_column_is_null_where_an_import_lacks_it(collected: Path, smallest: WithSmallest, tmp_path: Path) -> None:
    write_aggregate(smallest, tmp_path / "wider", provenance(collected))
    export_paper([tmp_path / "wider"], tmp_path / "paper.parquet")
    import_paper(tmp_path / "paper.parquet", lambda layer: tmp_path / "imported", smallest.positions, "silu")
    table = pq.read_table(tmp_path / "imported/statistics.parquet")
    schema.STATISTICS.check(table.schema, tmp_path)
    assert all(table[name].null_count == table.num_rows for name in NAMES)


@pytest.mark.usefixtures("smallest")
def test_a_made_up_column_is_described_to_dagster_and_to_readers_of_the_dataset(tmp_path: Path) -> None:
    columns = {one.name: one for one in column_schema("quadrant_aggregates").columns}
    for name in NAMES:
        assert columns[name].type == "float"
        assert columns[name].description == "Smallest value, with its sign; null where it has none (activation)."
    study = Study(tmp_path)
    write_inputs(study)
    card = dataset_card(sources_of(study), "mit")
    row = "| `{quadrant}_{activation}_smallest` | activation | smallest value, with its sign |"
    assert card.count(f"\n{row}\n| `{{quadrant}}_{{activation}}_mean` |") == 1


@pytest.mark.usefixtures("smallest")
def test_a_made_up_column_ranks_pages_and_is_turned() -> None:
    assert set(NAMES) <= set(rankable())
    check_statistic(NAMES[0])
    frame = pl.LazyFrame({**{name: [number, number] for number, name in enumerate(NAMES)}, "orientation": [1, -1]})
    raw, turned = orient(frame).select(NAMES).collect().rows()
    assert raw == tuple(range(16))
    assert turned == (4, -5, 6, -7, 0, -1, 2, -3, 12, -13, 14, -15, 8, -9, 10, -11)


@pytest.mark.usefixtures("smallest")
def test_a_made_up_column_is_a_script_for_the_explorer(tmp_path: Path) -> None:
    study = Study(tmp_path)
    path = tmp_path / "aggregate/statistics.parquet"
    table = pq.read_table(path)
    for number, name in enumerate(NAMES):
        table = table.append_column(name, pa.array([float(number)] * study.width, pa.float32()))
    write_parquet(table, path, {})
    study.write_columns(tmp_path / "site")
    folder = tmp_path / "site/late-1111111/00/columns"
    assert sorted(one.stem for one in folder.iterdir()) == sorted(groups())
    for place, activation in enumerate(ACTIVATIONS):
        values = Script(folder / f"{activation}-smallest.js").numbers("<f4", 4, study.width)
        assert values[:, 0].tolist() == [4 * quadrant + place for quadrant in range(4)]


def test_a_made_up_column_of_weights_and_texts_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WEIGHTS", "TEXTS"):
        table = getattr(schema, name)
        monkeypatch.setattr(schema, name, Table((*table.declared, Column("colour", pa.int32(), "made up", oriented="odd"))))
        columns: dict[str, list[Any]] = {one.name: [] for one in table.stored}
        with pytest.raises(ValueError, match="colour"):
            table_of(getattr(schema, name), columns)
        assert table_of(getattr(schema, name), {**columns, "colour": []}).column_names[-1] == "colour"
    assert "colour" in rankable()
    assert column_schema("tokenized_corpus").columns[-1].name == "colour"
    turned = orient(pl.LazyFrame({"colour": [3], "orientation": [-1]})).collect()
    assert turned["colour"].to_list() == [-3]


@dataclass
class Surprised(Aggregate):
    """An aggregate whose examples say one thing more."""

    surprise: np.ndarray
    """[L, N, K]"""


def test_a_made_up_field_of_examples_is_written_and_read(
    collected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = read_aggregate(collected)
    surprise = Column("surprise", pa.float32(), "of the token at the peak", "nat", oriented="odd")
    monkeypatch.setattr(schema, "EXAMPLE", Table((*schema.EXAMPLE.declared, surprise)))
    *identity, lists = schema.EXAMPLES.declared
    monkeypatch.setattr(schema, "EXAMPLES", Table((*identity, replace(lists, type=pa.list_(schema.EXAMPLE.struct)))))
    monkeypatch.setattr(aggregate_module, "Aggregate", Surprised)
    with pytest.raises(InputError, match=r"gate\+_in\+_gate is list"):
        read_aggregate(collected)
    write_aggregate(Surprised(**vars(known), surprise=2 * known.value), tmp_path / "wider", provenance(collected))
    again: Any = read_aggregate(tmp_path / "wider")
    assert np.array_equal(again.surprise, 2 * known.value)
    stored = ExampleLists.from_arrow(pq.read_table(tmp_path / "wider/examples.parquet")["gate+_in+_post"])
    assert np.array_equal(stored["surprise"], 2 * stored["value"])
    write_parquet(pa.table({"neuron": [0, 1, 2, 3], "orientation": [-1] * 4}), tmp_path / "weights.parquet", {})
    tables = LayerTables("key", 0, tmp_path / "wider", tmp_path / "weights.parquet")
    turned = scan_list(tables, "gate+_in+", "gate").collect()
    assert turned["surprise"].to_list() == (-2 * turned["value"]).to_list()
    assert set(turned["quadrant"]) == {"gate+_in-"}


def test_a_derived_column_needs_a_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    strange = Column("{quadrant}_oddity", pa.float64(), "made up", derived=True)
    monkeypatch.setattr(schema, "STATISTICS", with_column(schema.STATISTICS, strange, "{quadrant}_frequency"))
    with pytest.raises(ValueError, match=r"no formula for the derived column gate\+_in\+_oddity"):
        describe(pl.LazyFrame({one.name: [1.0] for one in schema.STATISTICS.stored}))
