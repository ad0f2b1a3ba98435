"""The overview's numbers from small tables, against plain loops in float64, and their drawing."""

import html
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import write_parquet
from gluscope_assets.core.pages.formats import format_count, format_decimal, format_share
from gluscope_assets.core.pages.site_map import SiteMap
from gluscope_assets.core.paths import LayerTables
from gluscope_assets.core.quadrants import QUADRANTS
from gluscope_assets.core.site.figures import BOX
from gluscope_assets.core.site.gate_finding import correlation, gate_frequency_finding
from gluscope_assets.core.site.layer_rows import CLASSES
from gluscope_assets.core.site.links import broken_links
from gluscope_assets.core.site.measured import MeasuredCheckpoint, Measurement, Pass
from gluscope_assets.core.site.overview import Overview, overview_of
from gluscope_assets.core.site.overview_figures import (
    MOST_GAPS,
    MOST_LINES,
    class_bars,
    quadrant_bars,
    spread,
    training_figures,
)
from gluscope_assets.core.site.site import render_site
from gluscope_assets.core.site.unusual import FEWEST_POSITIONS, LISTED

POSITIONS = 1000


@dataclass
class Layer:
    """A layer's tables in memory."""

    counts: np.ndarray
    """[5, neurons], quadrants and none; their sum is what the neuron saw."""
    largest: np.ndarray
    """[4, neurons], the largest |post| of each quadrant."""
    orientation: np.ndarray
    cosines: np.ndarray
    """[3, neurons]: gate and in, gate and out, in and out."""
    norm_out: np.ndarray
    classes: list[str]
    atypical: np.ndarray
    expert: list[int | None]

    @property
    def neurons(self) -> int:
        return self.counts.shape[1]

    @property
    def seen(self) -> np.ndarray:
        return self.counts.sum(axis=0)

    def shares(self, neuron: int, oriented: bool) -> np.ndarray:
        shares = self.counts[:, neuron].astype(np.float64) / self.counts[:, neuron].sum()
        return shares[[1, 0, 3, 2, 4]] if oriented and self.orientation[neuron] < 0 else shares

    def write(self, folder: Path, layer: int, baseline: float | None = 0.2) -> LayerTables:
        """The neurons stand in the weights in another order."""
        number = np.arange(self.neurons, dtype=np.int32)
        index = [place if expert is None else place % 3 for place, expert in enumerate(self.expert)]
        columns = {
            "layer": pa.array(np.full(self.neurons, layer, dtype=np.int32)),
            "neuron": pa.array(number),
            "mlp": pa.array(["mlp"] * self.neurons, pa.string()),
            "expert": pa.array(self.expert, pa.int32()),
            "index": pa.array(index, pa.int32()),
            "positions": pa.array(np.full(self.neurons, POSITIONS)),
            "routed": pa.array(self.seen),
            "zero": pa.array(self.counts[4]),
        }
        for place, quadrant in enumerate(QUADRANTS):
            columns[f"{quadrant}_count"] = pa.array(self.counts[place])
            columns[f"{quadrant}_post_largest"] = pa.array(self.largest[place], mask=self.counts[place] == 0)
        write_parquet(pa.table(columns), folder / f"{layer}" / "statistics.parquet", {})
        order = number[::-1]
        names = ("cos_gate_in", "cos_gate_out", "cos_in_out")
        weights = {
            "neuron": pa.array(number[order]),
            "orientation": pa.array(self.orientation[order].astype(np.int8)),
            **{name: pa.array(values[order].astype(np.float32)) for name, values in zip(names, self.cosines, strict=True)},
            "norm_out": pa.array(self.norm_out[order].astype(np.float32)),
            "class": pa.array([self.classes[place] for place in order]),
            "atypical": pa.array(self.atypical[order]),
        }
        chance = {} if baseline is None else {"cos_in_out": {"0.001": -baseline, "0.999": baseline / 2}}
        mlps = {"mlp" if expert is None else f"mlp, expert {expert}": chance for expert in self.expert}
        write_parquet(pa.table(weights), folder / f"weights-{layer}.parquet", {"random_baseline": mlps})
        return LayerTables(folder.name, layer, folder / f"{layer}", folder / f"weights-{layer}.parquet")


def random_layer(seed: int, neurons: int = 30, experts: bool = False) -> Layer:
    """Some quadrants are empty; experts see few positions, and one of them none."""
    random = np.random.default_rng(seed)
    counts = np.array([random.multinomial(POSITIONS, p) for p in random.dirichlet([0.8] * 5, neurons)]).T.astype(np.int64)
    expert: list[int | None] = [None] * neurons
    if experts:
        expert = [place // 3 for place in range(neurons)]
        counts //= random.integers(1, 12, neurons)
        counts[:, 3:6] = 0
    counts[1, 0] = 0
    return Layer(
        counts,
        random.gamma(2, 2, (4, neurons)).astype(np.float32),
        random.choice([-1, 1], neurons),
        random.uniform(-1, 1, (3, neurons)).astype(np.float32).astype(np.float64),
        random.gamma(2, 1, neurons).astype(np.float32).astype(np.float64),
        random.choice(CLASSES, neurons).tolist(),
        random.random(neurons) < 0.3,
        expert,
    )


def moved(before: Layer, after: Layer) -> dict[int, float]:
    """By neuron, the total variation distance of the raw shares."""
    return {
        neuron: 0.5 * sum(abs(a - b) for a, b in zip(before.shares(neuron, False), after.shares(neuron, False), strict=True))
        for neuron in range(min(before.neurons, after.neurons))
        if before.seen[neuron] and after.seen[neuron]
    }


Study = list[tuple[str, dict[int, Layer]]]


def study(checkpoints: int = 3, experts: bool = False, layers: tuple[int, ...] = (0, 2, 5)) -> Study:
    """The second checkpoint lacks a layer, as in a study that is partly built."""
    made = [
        (f"step{place}-000000{place}", {layer: random_layer(10 * place + layer, experts=experts) for layer in layers})
        for place in range(checkpoints)
    ]
    if checkpoints > 2:
        del made[1][1][2]
    return made


def written(made: Study, folder: Path, baseline: float | None = 0.2) -> list[tuple[str, list[LayerTables]]]:
    return [(key, [tables.write(folder / key, layer, baseline) for layer, tables in layers.items()]) for key, layers in made]


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
    expected = gate_frequency_finding(*tables[-1])
    assert overview.finding is not None
    assert overview.finding.checkpoint == tables[-1][0]
    assert overview.last is not None
    for summary, layer in zip(overview.last.layers, expected.layers, strict=True):
        assert summary.correlation == pytest.approx(layer.correlation, abs=1e-14)
        assert correlation(layer.frequency, layer.cosine) == layer.correlation


@pytest.mark.parametrize("checkpoints", [[], [("a-0000000", [])]])
def test_a_study_without_data_has_an_empty_overview(checkpoints: list[tuple[str, list[LayerTables]]]) -> None:
    overview = overview_of(checkpoints)
    assert (overview.checkpoints, overview.finding, overview.unusual, overview.last) == ((), None, (), None)
    assert training_figures(overview) is None


def scores(name: str, made: Study, chance: float) -> dict[tuple[int, int], float]:
    """What a criterion makes of each neuron that it ranks, by (layer, neuron), in plain loops."""
    found = {}
    first, last = made[0][1], made[-1][1]
    for number, layer in last.items():
        held = layer.counts[:4] > 0
        enough = [neuron for neuron in range(layer.neurons) if layer.seen[neuron] >= FEWEST_POSITIONS]
        post = np.where(held, layer.largest, 0).astype(np.float64)
        opened = {neuron: post[:2, neuron].max() for neuron in enough if held[:2, neuron].any()}
        write = {neuron: post[:, neuron].max() * layer.norm_out[neuron] for neuron in enough if held[:, neuron].any()}
        distances = moved(first[number], layer) if number in first and len(made) > 1 else {}
        for neuron in enough:
            shares, (gate_in, gate_out, in_out) = layer.shares(neuron, False), layer.cosines[:, neuron]
            kind = layer.classes[neuron]
            implied = {"strengthening": np.sign(gate_out), "weakening": -np.sign(gate_out)}.get(kind, 0.0)
            score = {
                "Uses all four quadrants": shares[:4].min(),
                "Seldom positive gate, strong post": opened[neuron] / np.median(list(opened.values()))
                if shares[:2].sum() < 0.1 and neuron in opened
                else None,
                "Writes most": write[neuron] / np.median(list(write.values())) if neuron in write else None,
                "Writes along what it reads": abs(in_out) - chance if abs(in_out) > chance else None,
                "Least like its class": abs(gate_in - implied) if layer.atypical[neuron] else None,
                "Moved most in training": distances.get(neuron) if first[number].seen[neuron] >= FEWEST_POSITIONS else None,
            }[name]
            if score is not None:
                found[number, neuron] = float(score)
    return found


@pytest.mark.parametrize("experts", [False, True])
def test_unusual_neurons_are_those_of_plain_loops(tmp_path: Path, experts: bool) -> None:
    made = study(experts=experts)
    overview = overview_of(written(made, tmp_path))
    assert len(overview.unusual) == 6
    for ranking in overview.unusual:
        expected = scores(ranking.criterion.name, made, 0.2)
        assert ranking.ranked == len(expected)
        best = sorted(expected, key=lambda place: (-expected[place], place))[:LISTED]
        assert sorted((one.layer, one.neuron) for one in ranking.neurons) == sorted(best)
        assert [one.score for one in ranking.neurons] == pytest.approx([expected[place] for place in best], rel=1e-6)
        for one in ranking.neurons:
            assert all(np.isfinite(one.values))
            if experts:
                assert one.mlp_index is not None
                assert (one.mlp_index.expert, one.mlp_index.index) == (one.neuron // 3, one.neuron % 3)
            else:
                assert one.mlp_index is None


def test_one_checkpoint_has_no_movement_and_no_baseline_no_chance(tmp_path: Path) -> None:
    overview = overview_of(written(study(1), tmp_path, baseline=None))
    names = [ranking.criterion.name for ranking in overview.unusual]
    assert "Moved most in training" not in names
    assert "Writes along what it reads" not in names
    assert len(names) == 4
    assert training_figures(overview) is None
    assert overview.last is not None
    assert all(layer.moved is None and layer.compared == 0 for layer in overview.last.layers)


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


# Drawing


@given(heights=st.lists(st.floats(0, 100), max_size=12), distance=st.floats(0.5, 9))
def test_labels_keep_their_distance_and_their_order(heights: list[float], distance: float) -> None:
    heights = sorted(heights)
    moved = spread(heights, distance)
    assert all(after - before >= distance - 1e-9 for before, after in pairwise(moved))
    if len(heights) * distance <= 100:
        assert all(distance / 2 - 1e-9 <= place <= 100 - distance / 2 + 1e-9 for place in moved)


def test_labels_that_are_apart_stay_where_they_are_and_others_part_evenly() -> None:
    assert spread([10, 50, 90], 9) == [10, 50, 90]
    assert spread([50, 50], 8) == [46, 54]
    assert spread([], 5) == []


def test_bars_stack_their_shares_and_labels_name_all_kinds(tmp_path: Path) -> None:
    overview = overview_of(written(study(1), tmp_path))
    assert overview.last is not None
    layers = overview.last.layers
    quadrants, classes = quadrant_bars(layers), class_bars(layers)
    assert quadrants is not None
    assert classes is not None
    assert [label.kind for label in quadrants.labels] == [0, 1, 2, 3]
    assert [label.kind for label in classes.labels] == list(range(6))
    assert classes.hatched
    assert not quadrants.hatched
    for bar, layer in zip(quadrants.bars, layers, strict=True):
        heights = {segment.kind: segment.height for segment in bar.segments}
        assert bar.layer == layer.layer
        assert [heights[kind] for kind in range(4)] == pytest.approx([100 * share for share in layer.shares or ()])
        tops = {segment.kind: segment.top for segment in bar.segments}
        assert [tops[kind] for kind in range(4)] == pytest.approx(
            [100 * sum((layer.shares or ())[:kind]) for kind in range(4)], abs=1e-9
        )
    for bar, layer in zip(classes.bars, layers, strict=True):
        for segment in bar.segments:
            assert segment.height == pytest.approx(100 * layer.classes[segment.kind] / layer.neurons)
            assert segment.hatched == pytest.approx(100 * layer.atypical[segment.kind] / layer.neurons)
        assert sum(segment.height for segment in bar.segments) == pytest.approx(100)


def many(overview: Overview, layers: int, checkpoints: int) -> Overview:
    """The overview of a large study, all layers of which are like the first of `overview`, moved a little."""
    first = overview.checkpoints[0].layers[0]
    made = tuple(
        replace(
            overview.checkpoints[0],
            key=f"step{place}-0000000",
            layers=tuple(
                replace(first, layer=layer, correlation=(layer - place) / 100, moved=layer / 100 if place else None, compared=9)
                for layer in range(layers)
            ),
        )
        for place in range(checkpoints)
    )
    return replace(overview, checkpoints=made)


def test_many_layers_are_numbered_in_steps_and_drawn_as_means_of_neighbours(tmp_path: Path) -> None:
    overview = many(overview_of(written(study(1), tmp_path)), 80, 20)
    assert overview.last is not None
    bars = quadrant_bars(overview.last.layers)
    assert bars is not None
    assert not bars.gaps
    assert len(bars.bars) == 80 > MOST_GAPS
    assert [bar.layer for bar in bars.bars if bar.numbered] == list(range(0, 80, 10))
    training = training_figures(overview)
    assert training is not None
    assert training.banded
    assert len(training.checkpoints) == 20
    r, distance = training.correlation
    assert len(r.lines) == len(r.labels) == MOST_LINES
    assert [line.first for line in r.lines] == [0, *(line.last + 1 for line in r.lines[:-1])]
    assert r.lines[-1].last == 79
    for plot in (r, distance):
        for line in plot.lines:
            points = [tuple(map(int, point)) for point in re.findall(r"[ML](\d+) (\d+)", line.path)]
            steps = range(20) if plot is r else range(1, 20)
            neighbours = range(line.first, line.last + 1)
            values = [np.mean([(layer - step) / 100 if plot is r else layer / 100 for layer in neighbours]) for step in steps]
            heights = [BOX * (plot.up.high - value) / (plot.up.high - plot.up.low) for value in values]
            assert points == [
                (pytest.approx(BOX * step / 19, abs=0.51), pytest.approx(height, abs=0.51))
                for step, height in zip(steps, heights, strict=True)
            ]
            assert line.dots == "", "many checkpoints have no dots"


def test_a_layer_that_a_checkpoint_lacks_leaves_a_gap(tmp_path: Path) -> None:
    training = training_figures(overview_of(written(study(3), tmp_path)))
    assert training is not None
    assert not training.banded
    for plot in training.quadrants:
        whole, broken, other = plot.lines
        assert (whole.first, broken.first, other.first) == (0, 2, 5)
        assert whole.path.count("L") == other.path.count("L") == 2
        assert (broken.path.count("M"), broken.path.count("L")) == (2, 0)
        assert broken.dots.count("M") == 2
    assert len({(plot.up.low, plot.up.high) for plot in training.quadrants}) == 1
    for plot in training.classes:
        assert all(0 <= tick.value <= 1 for tick in plot.up.ticks)


# The page


def site_map_of(made: Study) -> SiteMap:
    checkpoints = tuple((key, key.split("-")[0]) for key, _ in made)
    return SiteMap("s", "S", "m", "texts", checkpoints, tuple((layer, 30) for layer in (0, 2, 5)), ())


def rows_of(page: str, label: str) -> list[list[str]]:
    """The cells of the body of the table in the region with that label."""
    region = page[page.index(f'aria-label="{label}"') :].split("</table>")[0]
    body = region[region.index("<tbody>") :]
    return [
        [html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    ]


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


def test_a_neuron_that_no_page_has_is_named_without_a_link(tmp_path: Path) -> None:
    made = study(2)
    key = made[-1][0]
    overview = overview_of(written(made, tmp_path / "tables"))
    ranked = {(one.layer, one.neuron) for ranking in overview.unusual for one in ranking.neurons}
    folder = tmp_path / "site" / key / "00"
    folder.mkdir(parents=True)
    present = next(neuron for layer, neuron in sorted(ranked) if layer == 0)
    for name in ("index", str(present)):
        (folder / f"{name}.html").write_text("")
    render_site(tmp_path / "site", site_map_of(made), overview=overview)
    page = (tmp_path / "site" / "index.html").read_text()
    assert set(re.findall(rf'href="{key}/(\d+)/(\d+)\.html"', page)) == {("00", str(present))}
    assert f'<a href="{key}/00/{present}.html">layer 0, neuron {present}</a>' in page
    for layer, neuron in ranked:
        assert f"layer {layer}, neuron {neuron}" in page


def test_what_was_not_recorded_is_said_and_not_made_up(tmp_path: Path) -> None:
    made = study(2)
    ran = Pass((0, 2), "2026-01-02 03:04", 12000, 1.5, 1, None, "float32", (("torch", "2.13.0"),))
    measurement = Measurement(
        "", "c0ffee", 9, 8, (), (MeasuredCheckpoint("a", "x", "aa", ()), MeasuredCheckpoint("b", "y", "bb", (ran,)))
    )
    assert (measurement.seconds, measurement.dates) == (1.5, ("2026-01-02",))
    render_site(tmp_path, site_map_of(made), measurement)
    first, second = rows_of((tmp_path / "index.html").read_text(), "Checkpoints and what measuring them cost")
    assert first == ["a", "x", "aa", "not recorded"]
    cells = ["b", "y", "bb", "2026-01-02 03:04", "2", f"{format_count(12000)}and 1 shard before", "1.50 s", format_count(8000)]
    assert second == [*cells, "not recorded", "float32"]
    untimed = replace(measurement, checkpoints=(MeasuredCheckpoint("b", "y", "bb", (replace(ran, seconds=None),)),))
    assert untimed.seconds is None
    render_site(tmp_path, site_map_of(made), untimed)
    assert "not recorded" in (tmp_path / "index.html").read_text()
    mixed = replace(ran, software=(("torch", "2.14.0"),))
    both = replace(measurement, checkpoints=(MeasuredCheckpoint("b", "y", "bb", (ran, mixed)),))
    assert both.software == {"torch": "2.13.0, 2.14.0"}
