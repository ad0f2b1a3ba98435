"""The overview's numbers from small tables, against plain loops in float64, and the index that says them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.pages.formats import format_count, format_decimal, format_share
from gluscope_assets.core.paths import LayerTables
from gluscope_assets.core.site.gate_finding import correlation, layer_finding
from gluscope_assets.core.site.layer_rows import CLASSES, read_rows
from gluscope_assets.core.site.links import broken_links
from gluscope_assets.core.site.overview import overview_of
from gluscope_assets.core.site.overview_figures import class_bars, quadrant_bars, training_figures
from gluscope_assets.core.site.site import render_site
from gluscope_assets.core.site.unusual import LISTED
from gluscope_assets_tests.support.made_up_layers import (
    POSITIONS,
    Study,
    moved,
    random_layer,
    rows_of,
    site_map_of,
    study,
    written,
)


@pytest.mark.parametrize("experts", [False, True])
@pytest.mark.parametrize("view", ["oriented", "raw"])
def test_the_numbers_of_layers_are_those_of_plain_loops(tmp_path: Path, view: str, experts: bool) -> None:
    made = study(experts=experts)
    overview = overview_of(written(made, tmp_path), view)  # type: ignore[arg-type]
    assert [(found.key, [layer.layer for layer in found.layers]) for found in overview.checkpoints] == [
        (key, list(layers)) for key, layers in made
    ]
    for place, (found, (_, layers)) in enumerate(zip(overview.checkpoints, made, strict=True)):
        for summary in found.layers:
            layer = layers[summary.layer]
            seen = [neuron for neuron in range(layer.neurons) if layer.seen[neuron]]
            assert (summary.neurons, summary.seen, summary.positions) == (layer.neurons, len(seen), POSITIONS)
            assert len(seen) == layer.neurons - (3 if experts else 0)
            shares = np.mean([layer.shares(neuron, view == "oriented") for neuron in seen], axis=0)
            assert summary.shares == pytest.approx(shares[:4].tolist(), abs=1e-14)
            assert summary.outside == pytest.approx(shares[4], abs=1e-14)
            for kind, name in enumerate(CLASSES):
                of_class = [neuron for neuron in range(layer.neurons) if layer.classes[neuron] == name]
                assert summary.classes[kind] == len(of_class)
                assert summary.atypical[kind] == sum(bool(layer.atypical[neuron]) for neuron in of_class)
            gate = layer.counts[:2, seen].sum(axis=0) / layer.seen[seen]
            assert summary.correlation == pytest.approx(np.corrcoef(gate, layer.cosines[2, seen])[0, 1], abs=1e-12)
            before = made[place - 1][1].get(summary.layer) if place else None
            distances = moved(before, layer) if before else {}
            assert summary.compared == len(distances)
            if distances:
                assert summary.moved == pytest.approx(np.mean(list(distances.values())), abs=1e-14)
            else:
                assert summary.moved is None


def test_the_view_changes_shares_of_flipped_neurons_and_nothing_else(tmp_path: Path) -> None:
    tables = written(study(), tmp_path)
    oriented, raw = overview_of(tables, "oriented"), overview_of(tables, "raw")
    assert oriented.checkpoints != raw.checkpoints
    for first, second in zip(oriented.checkpoints, raw.checkpoints, strict=True):
        for one, other in zip(first.layers, second.layers, strict=True):
            assert replace(one, shares=None, outside=None) == replace(other, shares=None, outside=None)
            assert one.shares is not None
            assert other.shares is not None
            assert one.shares[0] + one.shares[1] == pytest.approx(other.shares[0] + other.shares[1], abs=1e-14)
    assert oriented.unusual == raw.unusual


def test_a_flipped_orientation_is_no_movement(tmp_path: Path) -> None:
    layer = random_layer(0)
    made: Study = [("a-0000000", {0: layer}), ("b-1111111", {0: replace(layer, orientation=-layer.orientation)})]
    (summary,) = overview_of(written(made, tmp_path)).checkpoints[1].layers
    assert summary.moved == 0


def test_the_finding_is_that_of_the_last_checkpoint_with_data(tmp_path: Path) -> None:
    tables = written(study(2), tmp_path)
    overview = overview_of([*tables, ("later-9999999", [])])
    key, newest = tables[-1]
    assert overview.finding is not None
    assert overview.finding.checkpoint == key
    assert overview.last is not None
    for summary, layer, of_layer in zip(overview.last.layers, overview.finding.layers, newest, strict=True):
        expected = layer_finding(of_layer.layer, read_rows(of_layer))
        assert (layer.layer, layer.correlation) == (expected.layer, expected.correlation)
        assert np.array_equal(layer.frequency, expected.frequency)
        assert np.array_equal(layer.cosine, expected.cosine)
        assert summary.correlation == correlation(layer.frequency, layer.cosine) == layer.correlation


@pytest.mark.parametrize("checkpoints", [[], [("a-0000000", [])]])
def test_a_study_without_data_has_an_empty_overview(checkpoints: list[tuple[str, list[LayerTables]]]) -> None:
    overview = overview_of(checkpoints)
    assert (overview.checkpoints, overview.finding, overview.unusual, overview.last) == ((), None, (), None)
    assert training_figures(overview) is None


def test_a_missing_file_and_an_unknown_class_are_one_sentence(tmp_path: Path) -> None:
    layer = random_layer(0)
    tables = layer.write(tmp_path, 0)
    tables.weights.unlink()
    with pytest.raises(InputError, match=r"weights-0\.parquet does not exist"):
        overview_of([("a-0000000", [tables])])
    layer.classes[7] = "sideways"
    with pytest.raises(InputError, match=r"weights-0\.parquet has the class sideways for neuron 7.*gluscope build") as raised:
        overview_of([("a-0000000", [layer.write(tmp_path, 0)])])
    assert "\n" not in str(raised.value)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), neurons=st.integers(3, 40), experts=st.booleans(), view=st.sampled_from(["oriented", "raw"]))
def test_shares_add_up_and_stay_in_their_range(
    tmp_path_factory: pytest.TempPathFactory, seed: int, neurons: int, experts: bool, view: str
) -> None:
    made: Study = [
        ("a-0000000", {0: random_layer(seed, neurons, experts)}),
        ("b-1111111", {0: random_layer(seed + 1, neurons, experts)}),
    ]
    overview = overview_of(written(made, tmp_path_factory.mktemp("study")), view)  # type: ignore[arg-type]
    for checkpoint in overview.checkpoints:
        (layer,) = checkpoint.layers
        if layer.seen:
            assert layer.shares is not None
            assert sum(layer.shares) + (layer.outside or 0) == pytest.approx(1, abs=1e-12)
        assert sum(layer.classes) == layer.neurons
        assert all(few <= many for few, many in zip(layer.atypical, layer.classes, strict=True))
        assert layer.moved is None or 0 <= layer.moved <= 1
        assert layer.correlation is None or -1 <= layer.correlation <= 1
        for figure in (quadrant_bars(checkpoint.layers), class_bars(checkpoint.layers)):
            for bar in figure.bars if figure else ():
                assert 0 <= bar.left < bar.left + bar.width <= 100 + 1e-9
                for segment in bar.segments:
                    assert 0 <= segment.top < segment.top + segment.height <= 100 + 1e-9
                    assert 0 <= segment.hatched <= segment.height + 1e-9
    for ranking in overview.unusual:
        ordered = [one.score for one in ranking.neurons]
        assert ordered == sorted(ordered, reverse=True)
        assert 0 < len(ordered) <= min(LISTED, ranking.ranked)


# The page


def test_the_index_says_every_number_of_its_figures_in_tables(tmp_path: Path) -> None:
    made = study(3, experts=True)
    overview = overview_of(written(made, tmp_path / "tables"))
    render_site(tmp_path / "site", site_map_of(made), overview=overview)
    page = (tmp_path / "site" / "index.html").read_text()
    assert "NaN" not in page
    assert "style=" not in page
    assert broken_links(tmp_path / "site") == []
    assert overview.last is not None
    last = overview.last.layers

    def shares(shown: tuple[float, ...] | None, outside: float | None) -> list[str]:
        return [format_share(share) for share in (*(shown or ()), outside or 0.0)]

    assert rows_of(page, "Mean share of positions in each quadrant, by layer") == [
        [str(layer.layer), str(layer.seen), *shares(layer.shares, layer.outside), format_count(POSITIONS)] for layer in last
    ]
    for row, layer in zip(rows_of(page, "Neurons of each class, by layer"), last, strict=True):
        cells = [str(layer.layer), str(layer.neurons), *map(str, layer.classes), str(sum(layer.atypical))]
        assert [cell.split(" (")[0] for cell in row] == cells
    every = [(checkpoint.key.split("-")[0], layer) for checkpoint in overview.checkpoints for layer in checkpoint.layers]
    assert rows_of(page, "Mean share of positions in each quadrant, by checkpoint and layer") == [
        [name, str(layer.layer), str(layer.seen), *shares(layer.shares, layer.outside)] for name, layer in every
    ]
    assert rows_of(page, "Neurons of each class, by checkpoint and layer") == [
        [name, str(layer.layer), str(layer.neurons), *map(str, layer.classes), str(sum(layer.atypical))]
        for name, layer in every
    ]
    assert rows_of(page, "Correlation and distance moved, by checkpoint and layer") == [
        [
            name,
            str(layer.layer),
            str(layer.seen),
            format_decimal(layer.correlation, 3),
            "–" if layer.moved is None else format_share(layer.moved),
            str(layer.compared),
        ]
        for name, layer in every
    ]
