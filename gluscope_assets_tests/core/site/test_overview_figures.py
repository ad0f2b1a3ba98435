"""The figures of the overview against the numbers that they draw."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluscope_assets.core.site.figures import BOX
from gluscope_assets.core.site.overview import Overview, overview_of
from gluscope_assets.core.site.overview_figures import (
    MOST_GAPS,
    MOST_LINES,
    class_bars,
    quadrant_bars,
    spread,
    training_figures,
)
from gluscope_assets_tests.support.made_up_layers import study, written


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
