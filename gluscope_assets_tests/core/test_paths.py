"""Paths: layers of any number lie where all who look expect them."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluscope_assets.core.paths import (
    LAYER_DIGITS,
    LayerShards,
    StudyFolder,
    default_home,
    layer_name,
    layer_neuron_pages,
    neuron_pages,
    page_file,
)


@given(st.integers(min_value=0, max_value=9999))
def test_the_pattern_of_layers_matches_their_names_and_no_other_spelling(layer: int) -> None:
    name = layer_name(layer)
    assert int(name) == layer
    assert re.fullmatch(LAYER_DIGITS, name)
    for other in (str(layer) if layer < 10 else f"0{layer}", f"00{layer}", f"{layer}x"):
        assert not re.fullmatch(LAYER_DIGITS, other)


def test_stored_aggregates_are_those_with_statistics_whatever_their_number(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    layers = [("step-0000000", 2), ("step-0000000", 99), ("step-0000000", 100), ("step-1111111", 0), ("step-1111111", 1234)]
    for key, layer in reversed(layers):
        folder.aggregate(key, layer).mkdir(parents=True)
        folder.tables(key, layer).statistics.touch()
    # What failed its checks, what is half-written, and what is empty.
    for name in ("layer-03.rejected", ".layer-04.half", "layer-05"):
        (folder.root / "aggregates" / "step-0000000" / name).mkdir()
    (folder.root / "aggregates" / "step-0000000" / "layer-03.rejected" / "statistics.parquet").touch()
    assert folder.stored_aggregates() == layers


def test_the_shards_of_a_layer_are_listed_in_order(tmp_path: Path) -> None:
    shards = LayerShards(tmp_path, 100)
    for shard in (12, 0, 3):
        shards.shard(shard).mkdir(parents=True)
        (shards.shard(shard) / "manifest.json").touch()
    assert [path.parent for path in shards.manifests()] == [shards.shard(shard) for shard in (0, 3, 12)]


def test_pages_are_told_from_what_lies_beside_them(tmp_path: Path) -> None:
    key = "step-0000000"
    pages = [tmp_path / page_file(key, layer, neuron) for layer, neuron in ((0, 2), (0, 10), (100, 0))]
    for path in [*pages, pages[0].with_name("index.html"), pages[0].with_suffix(".js"), tmp_path / "dataset" / "a" / "1.html"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert layer_neuron_pages(tmp_path, key, 0) == pages[:2]
    assert neuron_pages(tmp_path) == sorted(pages)


def test_the_home_is_the_variable_or_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLUSCOPE_HOME", str(tmp_path / "elsewhere"))
    assert default_home() == tmp_path / "elsewhere"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLUSCOPE_HOME", "")
    assert default_home() == tmp_path / ".gluscope"
