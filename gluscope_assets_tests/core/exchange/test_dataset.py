"""The published dataset: against the tables it is made of, and its card, every example of which is run."""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.exchange.dataset import write_dataset
from gluscope_assets.core.files import read_provenance, write_parquet
from gluscope_assets.core.pages.layer_source import LayerSource
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, column
from gluscope_assets.study.sources import all_sources
from gluscope_assets_tests.conftest import Workplace
from gluscope_assets_tests.support.tiny import LAYERS, WIDTH

KEYS = 2


@pytest.fixture(scope="module")
def sources(built_tiny: Workplace) -> list[LayerSource]:
    return all_sources(built_tiny.study, built_tiny.folder)


@pytest.fixture(scope="module")
def dataset(sources: list[LayerSource], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("published") / "dataset"
    write_dataset(sources, target, "mit")
    return target


def card(dataset: Path) -> tuple[dict[str, Any], str]:
    """Front matter and text of a card."""
    _, front, text = (dataset / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_neurons_are_statistics_and_weights_side_by_side(dataset: Path, sources: list[LayerSource]) -> None:
    found = pl.read_parquet(dataset / "neurons" / "*" / "*.parquet")
    assert len(found) == KEYS * LAYERS * WIDTH
    rows = found.rows_by_key(["checkpoint", "layer", "neuron"], named=True, include_key=True, unique=True)
    for source in sources:
        statistics = pl.read_parquet(source.aggregate / "statistics.parquet")
        weights = pl.read_parquet(source.weights)
        assert weights["neuron"].to_list() == statistics["neuron"].to_list()
        for known, other in zip(statistics.iter_rows(named=True), weights.iter_rows(named=True), strict=True):
            row = rows[source.checkpoint_key, source.layer, known["neuron"]]
            for name, value in {**other, **known}.items():
                assert row[name] == value, name
            for quadrant in QUADRANTS:
                count = known[f"{quadrant}_count"]
                assert row[f"{quadrant}_frequency"] == count / known["positions"]
                for activation in ACTIVATIONS:
                    prefix = column(quadrant, activation)
                    assert row[f"{prefix}_mean"] == (known[f"{prefix}_sum"] / count if count else None)


def test_examples_are_the_tables_themselves_and_take_no_room(dataset: Path, sources: list[LayerSource]) -> None:
    for source in sources:
        file = dataset / "examples" / source.checkpoint_key / f"layer-{source.layer:02d}.parquet"
        assert file.samefile(source.aggregate / "examples.parquet")


def test_the_vocabulary_says_what_tokens_are(dataset: Path, built_tiny: Workplace) -> None:
    vocabulary = pl.read_parquet(dataset / "vocabulary.parquet")
    pieces = dict(vocabulary.iter_rows())
    corpus = pl.read_parquet(built_tiny.folder.corpus)
    text = next(row for row in corpus.iter_rows(named=True) if row["document"].endswith("one.txt"))
    assert "".join(pieces[token] for token in text["token"]).startswith("<s>The quick brown fox jumps")


def test_the_card_names_every_file_once(dataset: Path) -> None:
    front, _ = card(dataset)
    assert front["license"] == "mit"
    listed: list[Path] = []
    for config in front["configs"]:
        splits = [entry["split"] for entry in config["data_files"]]
        assert len(splits) == len(set(splits)) == KEYS
        for entry in config["data_files"]:
            assert re.fullmatch(r"\w+(\.\w+)*", entry["split"])  # what `datasets` allows
            matched = sorted(dataset.glob(entry["path"]))
            assert len(matched) == LAYERS
            assert {path.parent.parent.name for path in matched} == {config["config_name"]}
            listed += matched
    lying = {path for path in dataset.rglob("*.parquet") if path.name != "vocabulary.parquet"}
    assert len(listed) == len(set(listed))
    assert set(listed) == lying


def expanded(columns: set[str]) -> set[str]:
    """The names that a card's names stand for."""
    names = set()
    for name in columns:
        for quadrant, activation in product(QUADRANTS, ACTIVATIONS):
            names.add(name.replace("{quadrant}", quadrant).replace("{activation}", activation))
    lists = {column(*ranked) for ranked in LISTS}
    return names - {"{list}"} | (lists if "{list}" in names else set())


def test_the_card_has_every_column_and_no_other(dataset: Path) -> None:
    _, text = card(dataset)
    listed = {}
    for folder in ("neurons", "examples"):
        tables = text.split(f"### {folder}\n")[1].split("\n#")[0].split("Each holds structs")
        listed, *fields = (set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)) for table in tables)
        for file in (dataset / folder).rglob("*.parquet"):
            assert set(pq.read_schema(file).names) == expanded(listed)
    kind = pq.read_schema(next((dataset / "examples").rglob("*.parquet"))).field("gate+_in+_post").type.value_type
    assert [{field.name for field in kind}] == fields
    assert "{" not in re.sub(r"\{(quadrant|activation|list|token, score)\}", "", text.split("## Columns")[1])


def test_the_card_says_where_the_tables_come_from(dataset: Path, sources: list[LayerSource]) -> None:
    _, text = card(dataset)
    for source in sources:
        footer = read_provenance(source.aggregate / "statistics.parquet")
        (line,) = (line for line in text.splitlines() if line.startswith(f"| `{source.checkpoint_key}` |"))
        for fact in ("weights_hash", "content_hash", "dtype", "positions", "examples"):
            assert f" {footer[fact]} " in line
        stored = read_provenance(dataset / "neurons" / source.checkpoint_key / f"layer-{source.layer:02d}.parquet")
        assert stored["fingerprint"] == footer["fingerprint"]


@pytest.mark.parametrize("heading", ["polars", "DuckDB", "datasets"])
def test_the_cards_examples_run_in_a_copy_of_the_folder(dataset: Path, heading: str, tmp_path: Path) -> None:
    if heading == "datasets" and importlib.util.find_spec("datasets") is None:
        pytest.skip("the library datasets is not installed; that the card's patterns resolve is tested above")
    _, text = card(dataset)
    programs = dict(re.findall(r"### (\w+)\n.*?```python\n(.*?)```", text, re.DOTALL))
    assert set(programs) == {"polars", "DuckDB", "datasets"}
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "POLARS_FMT_MAX_COLS": "20"}
    command = [sys.executable, "-c", programs[heading]]
    done = subprocess.run(command, cwd=dataset, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 5 or heading == "datasets"


def test_duckdb_reads_what_polars_reads(dataset: Path) -> None:
    for folder, name, measure, ours in (
        ("neurons", "gate+_in+_count", "sum({})", pl.col("gate+_in+_count").sum()),
        ("examples", "gate+_in+_post", "sum(len({}))", pl.col("gate+_in+_post").list.len().sum()),
    ):
        pattern, measured = str(dataset / folder / "*" / "*.parquet"), measure.format(f'"{name}"')
        found = duckdb.sql(f"SELECT count(*), {measured} FROM '{pattern}'").fetchall()
        assert found == pl.read_parquet(pattern).select(pl.len(), ours).rows()
    cells = duckdb.sql(f"""
        SELECT sum(len(example.gate)), sum(list_sum(example.gate)) FROM
        (SELECT unnest("gate+_in+_post") AS example FROM '{dataset}/examples/*/*.parquet')
    """).fetchall()
    windows = pl.read_parquet(dataset / "examples" / "*" / "*.parquet").select(entry="gate+_in+_post").explode("entry")
    gate = windows.unnest("entry").select(pl.col("gate").explode().cast(pl.Float64))["gate"].drop_nulls()
    assert cells == [(len(gate), pytest.approx(gate.sum(), rel=1e-4))]


def test_layers_with_wider_windows_make_all_wide(sources: list[LayerSource], tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    for name in ("statistics", "examples"):
        table = pq.read_table(sources[1].aggregate / f"{name}.parquet")
        if name == "examples":
            field = table.schema.field("gate+_in+_in")
            struct = [
                child.with_type(pa.list_(pa.float32())) if child.name in ("gate", "in") else child
                for child in field.type.value_type
            ]
            table = table.set_column(
                table.schema.get_field_index(field.name), field.name, table[field.name].cast(pa.list_(pa.struct(struct)))
            )
        write_parquet(table, changed / f"{name}.parquet", read_provenance(sources[1].aggregate / f"{name}.parquet"))
    write_dataset([sources[0], replace(sources[1], aggregate=changed)], tmp_path / "dataset", "cc-by-4.0")
    found = pl.read_parquet(tmp_path / "dataset" / "examples" / "*" / "*.parquet")
    expected = pl.concat([pl.read_parquet(source.aggregate / "examples.parquet") for source in sources[:2]])
    for name in (column(*ranked) for ranked in LISTS):
        for part in ("value", "gate", "in"):
            one, two = (frame[name].explode().struct.field(part).to_list() for frame in (found, expected))
            assert one == two
    assert (tmp_path / "dataset" / "examples" / sources[0].checkpoint_key / "layer-01.parquet").samefile(
        changed / "examples.parquet"
    )


def test_only_a_dataset_is_replaced_and_nothing_half_written_stays(
    sources: list[LayerSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    write_dataset(sources[:1], target, "mit")
    write_dataset(sources, target, "apache-2.0")
    assert len(list(target.rglob("layer-*.parquet"))) == 2 * len(sources)
    assert card(target)[0]["license"] == "apache-2.0"
    with pytest.raises(InputError, match="does not exist; run gluscope build"):
        write_dataset([*sources, replace(sources[0], weights=tmp_path / "gone.parquet")], target, "mit")
    assert card(target)[0]["license"] == "apache-2.0"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds something that is no dataset of GLUScope"):
        write_dataset(sources, other, "mit")
    with pytest.raises(InputError, match="license is 'mit: yes'; give an identifier"):
        write_dataset(sources, target, "mit: yes")
    with pytest.raises(InputError, match="There is nothing to publish"):
        write_dataset([], target, "mit")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "target"]


def test_files_are_copied_where_links_are_impossible(
    sources: list[LayerSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, path: Path) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", refuse)
    write_dataset(sources[:1], tmp_path / "dataset", "mit")
    file = tmp_path / "dataset" / "examples" / sources[0].checkpoint_key / "layer-00.parquet"
    assert file.read_bytes() == (sources[0].aggregate / "examples.parquet").read_bytes()
    assert not file.samefile(sources[0].aggregate / "examples.parquet")
