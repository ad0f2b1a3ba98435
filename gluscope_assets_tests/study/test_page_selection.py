"""Page selections in a build: what a changed selection, ranking or layer makes stale, and what it leaves alone."""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from gluscope_assets.commands.plan import LayerRun, Planner
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.core.options import TopNeurons
from gluscope_assets.core.pages.selection import top_neurons
from gluscope_assets.core.pages.site_map import read_manifest
from gluscope_assets.core.site.links import broken_links
from gluscope_assets.study.fingerprints import layers_behind, partition_key, selected_neurons
from gluscope_assets_tests.conftest import Workplace

Selections = list[dict[str, Any]]


def select(workplace: Workplace, pages: Selections) -> None:
    content = yaml.safe_load(workplace.file.read_text())
    workplace.file.write_text(yaml.safe_dump({**content, "site": {"pages": pages}}))


def rendered(workplace: Workplace) -> dict[tuple[str, int], list[int]]:
    """The neurons with pages, by checkpoint name and layer, of layers that have any."""
    found: dict[tuple[str, int], list[int]] = {}
    for path in workplace.folder.site.glob("*/*/[0-9]*.html"):
        name = path.parent.parent.name.rpartition("-")[0]
        found.setdefault((name, int(path.parent.name)), []).append(int(path.stem))
    return {place: sorted(neurons) for place, neurons in found.items()}


def again(workplace: Workplace) -> Mapping[str, set[str | None]]:
    """What a build materializes."""
    runs = workplace.runs()
    assert workplace.build() == 0
    return workplace.materialized(runs)


def places(workplace: Workplace, *layers: tuple[int, int]) -> set[str]:
    """The partition keys of (place of the checkpoint, layer)."""
    keys = [resolve_checkpoint(options).key for options in workplace.study.model.checkpoints]
    return {partition_key(keys[checkpoint], layer) for checkpoint, layer in layers}


def test_a_ranking_renders_its_top_and_a_second_build_does_nothing(tiny: Workplace) -> None:
    ranking = {"top": 5, "by": "gate+_in+_post_largest", "of": "checkpoint"}
    select(tiny, [{"checkpoints": "last", "neurons": ranking}, {"checkpoints": ["first"], "layers": [1], "neurons": [11, 3]}])
    assert again(tiny).keys() == {"neuron_pages", "site"}
    key = resolve_checkpoint(tiny.study.model.checkpoints[1]).key
    tables = [tiny.folder.tables(key, layer) for layer in range(2)]
    expected: dict[tuple[str, int], list[int]] = {("first", 1): [3, 11]}
    for layer, neuron in sorted(top_neurons(TopNeurons.model_validate(ranking), tables, "oriented")):
        expected.setdefault(("second", layer), []).append(neuron)
    assert rendered(tiny) == expected
    assert broken_links(tiny.folder.site) == []
    entries = {entry["name"]: entry["layers"] for entry in read_manifest(tiny.folder.site)["checkpoints"]}
    assert entries["first"] == [
        {"layer": 0, "width": 12, "pages": []},
        {"layer": 1, "width": 12, "pages": [[3, 4], [11, 12]]},
    ]
    assert again(tiny) == {}


def test_a_changed_selection_renders_only_the_layers_it_touches(tiny: Workplace) -> None:
    everything: Selections = [{"checkpoints": "last", "neurons": "all"}, {"checkpoints": "all", "neurons": 2}]
    select(tiny, [*everything, {"checkpoints": ["first"], "layers": [1], "neurons": [7]}])
    changed = again(tiny)
    assert changed == {"neuron_pages": places(tiny, (0, 1)), "site": {None}}
    assert rendered(tiny)["first", 1] == [0, 1, 7]
    # A neuron that is held already changes nothing.
    select(tiny, [*everything, {"checkpoints": ["first"], "layers": [1], "neurons": [1, 7]}])
    assert again(tiny) == {}
    select(tiny, everything)
    assert again(tiny) == {"neuron_pages": places(tiny, (0, 1)), "site": {None}}
    assert rendered(tiny)["first", 1] == [0, 1]


def test_a_ranking_follows_the_tables_of_all_its_layers(tiny: Workplace) -> None:
    ranking = {"top": 5, "by": "cos_in_out", "of": "checkpoint", "order": "ascending"}
    select(tiny, [{"checkpoints": "all", "neurons": ranking}])
    assert again(tiny).keys() == {"neuron_pages", "site"}
    study = tiny.study

    def same(stage: str, layer: int) -> str:
        return f"{stage} {layer}"

    def other(stage: str, layer: int) -> str:
        return "another" if (stage, layer) == ("quadrant_aggregates", 1) else same(stage, layer)

    assert layers_behind(study, "first", 0) == [0, 1]
    assert selected_neurons(study, "first", 0, same) != selected_neurons(study, "first", 0, other)
    select(tiny, [{"checkpoints": "all", "neurons": {**ranking, "of": "layer"}}])
    study = tiny.study
    assert layers_behind(study, "first", 0) == [0]
    assert selected_neurons(study, "first", 0, same) == selected_neurons(study, "first", 0, other)
    content = yaml.safe_load(tiny.file.read_text())
    tiny.file.write_text(yaml.safe_dump({**content, "collection": {**content["collection"], "examples": 2}}))
    assert len(again(tiny)["neuron_pages"]) == 4
    assert again(tiny) == {}


def test_a_ranking_needs_the_layers_that_it_ranks(fresh: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    select(fresh, [{"checkpoints": "last", "neurons": {"top": 3, "by": "routed", "of": "checkpoint"}}])
    assert fresh.build("--layers", "1") == 2
    message = (
        "site.pages ranks the neurons of layer 1 together with those of layer 0, which is not built at second; build both."
    )
    assert message in capsys.readouterr().err
    assert not [name for name in fresh.files() if name.startswith("tiny/")]


def test_layers_apart_are_ranked_when_all_of_their_tables_are_there(built_tiny: Workplace) -> None:
    model = built_tiny.study.model.model_copy(update={"layers": 4})
    checkpoint = replace(resolve_checkpoint(model.checkpoints[0]), name="first")
    planner = cast(Planner, SimpleNamespace(study=built_tiny.study.model_copy(update={"model": model})))
    tables = ("neuron_weights", "activation_shards", "quadrant_aggregates")
    stages = (*tables, "neuron_pages")
    stale = {stage: {0, 2, 3} for stage in stages}
    assert Planner._runs(planner, checkpoint, stale) == [
        LayerRun(checkpoint, 0, 0, tables),
        LayerRun(checkpoint, 2, 3, tables),
        LayerRun(checkpoint, 0, 0, ("neuron_pages",)),
        LayerRun(checkpoint, 2, 3, ("neuron_pages",)),
    ]
    assert Planner._runs(planner, checkpoint, {**{stage: set() for stage in tables}, "neuron_pages": {1, 2}}) == [
        LayerRun(checkpoint, 1, 2, ("neuron_pages",))
    ]
    assert Planner._runs(planner, checkpoint, {stage: set() for stage in stages}) == []


def test_a_neuron_beyond_a_layer_ends_a_build_before_it_begins(fresh: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    select(fresh, [{"checkpoints": "all", "layers": [1], "neurons": [3, 12]}])
    assert fresh.build() == 2
    said = capsys.readouterr().err
    assert "site.pages lists neuron 12 in neurons, and layer 1 has only 12; leave it out or name other layers." in said
    assert not [name for name in fresh.files() if name.startswith("tiny/")]


def test_pages_of_a_run_that_failed_are_not_taken_for_whole(
    tiny: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in tiny.folder.site.rglob("*") if path.is_file()}
    text = tiny.file.read_text()
    select(tiny, [{"checkpoints": "all", "neurons": [4]}])

    def fails(*arguments: object) -> int:
        raise InputError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr("gluscope_assets.study.stages.neuron_pages.write_columns", fails)
        assert tiny.build() == 2
    assert "The disk is full." in capsys.readouterr().err
    tiny.file.write_text(text)
    assert "neuron_pages" in again(tiny)
    assert {path: path.read_bytes() for path in tiny.folder.site.rglob("*") if path.is_file()} == before
