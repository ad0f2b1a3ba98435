"""The overview as the geometry of its figures: stacked bars a layer, and lines over checkpoints.

Lengths are in percent of a plot, from its left and from its top, so nothing here depends on how large it is shown; lines are
paths in a box that is stretched over the plot. Colours, sizes and words belong to the style sheet and the templates, numbers
to `overview`, the scatter plots to `figures`, which says why figures are drawn by hand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gluscope_assets.core.quadrants import QUADRANTS
from gluscope_assets.core.site.figures import BOX, Axis, axis_of
from gluscope_assets.core.site.layer_rows import CLASSES
from gluscope_assets.core.site.overview import LayerSummary, Overview

MOST_LINES = 6
"""More layers than these are drawn as so many lines, each the mean of neighbouring layers."""
MOST_GAPS = 24
"""More bars than these stand without gaps."""
LEAST_EDGED = 2.0
"""Segments of less percent have no edge, which would cover them."""
GAP = 0.14
"""What a gap takes of a bar's width."""
MOST_NUMBERS = 10
"""Bars that have their layer's number below them."""
MOST_DOTS = 8
"""More checkpoints than these have no dots on their lines."""
BAR_LABEL, LINE_LABEL = 6.5, 9.0
"""The height of a line of text in percent of the plot, as the style sheet has it: labels keep that distance."""


# Bars


@dataclass(frozen=True)
class Segment:
    """A segment of a bar."""

    kind: int
    """Its index among the figure's kinds: quadrants or classes."""
    top: float
    height: float
    hatched: float
    """The height that is hatched, from its top: the atypical neurons of a class."""

    @property
    def edged(self) -> bool:
        return self.height >= LEAST_EDGED


@dataclass(frozen=True)
class Bar:
    """One layer. Its segments are stacked from the top and listed by size; what is missing below them is in no kind."""

    layer: int
    left: float
    width: float
    segments: tuple[Segment, ...]
    numbered: bool
    """Whether its layer's number stands below it."""

    @property
    def middle(self) -> float:
        return self.left + self.width / 2


@dataclass(frozen=True)
class Label:
    """A name to the right of a plot."""

    kind: int
    target: float
    """The height of what it names."""
    height: float
    """Its own height, at a distance from the others."""


@dataclass(frozen=True)
class Bars:
    """Stacked bars, a bar a layer."""

    names: tuple[str, ...]
    """Of its kinds."""
    bars: tuple[Bar, ...]
    labels: tuple[Label, ...]
    """Beside the last bar, for each kind that a layer has."""
    gaps: bool
    hatched: bool


def quadrant_bars(layers: Sequence[LayerSummary]) -> Bars | None:
    """The mean quadrant shares of the layers of a checkpoint; None if no neuron saw a position."""
    seen = [layer for layer in layers if layer.shares is not None]
    return _bars(QUADRANTS, [(layer.layer, layer.shares or (), (0.0,) * 4) for layer in seen])


def class_bars(layers: Sequence[LayerSummary]) -> Bars | None:
    """The share of a layer's neurons in each input-output class; None if there is no neuron."""
    held = [layer for layer in layers if layer.neurons]
    shares = [tuple(count / layer.neurons for count in layer.classes) for layer in held]
    hatched = [tuple(count / layer.neurons for count in layer.atypical) for layer in held]
    return _bars(CLASSES, list(zip([layer.layer for layer in held], shares, hatched, strict=True)))


def _bars(names: tuple[str, ...], layers: Sequence[tuple[int, Sequence[float], Sequence[float]]]) -> Bars | None:
    """Of (layer, share of each kind, hatched share of each kind)."""
    if not layers:
        return None
    pitch, gaps = 100 / len(layers), len(layers) <= MOST_GAPS
    margin = GAP * pitch / 2 if gaps else 0.0
    every = next(step for step in _rounds() if len(layers) <= MOST_NUMBERS * step)
    bars = []
    for number, (layer, shares, hatched) in enumerate(layers):
        tops = 100 * np.cumsum([0.0, *shares])
        segments = [
            Segment(kind, float(tops[kind]), 100 * share, 100 * hatched[kind]) for kind, share in enumerate(shares) if share > 0
        ]
        # Small segments are drawn last: the edges of large ones would hide them.
        segments.sort(key=lambda segment: -segment.height)
        bars.append(Bar(layer, number * pitch + margin, pitch - 2 * margin, tuple(segments), number % every == 0))
    middles = {segment.kind: segment.top + segment.height / 2 for segment in bars[-1].segments}
    tops = 100 * np.cumsum([0.0, *layers[-1][1]])
    present = sorted({segment.kind for bar in bars for segment in bar.segments})
    heights = [middles.get(kind, float(tops[kind])) for kind in present]
    labels = (Label(*label) for label in zip(present, heights, spread(heights, BAR_LABEL), strict=True))
    return Bars(names, tuple(bars), tuple(labels), gaps, any(segment.hatched for bar in bars for segment in bar.segments))


def _rounds() -> list[int]:
    return [factor * 10**exponent for exponent in range(6) for factor in (1, 2, 5)]


def spread(heights: Sequence[float], distance: float) -> list[float]:
    """Ascending `heights` moved as little as possible to at least `distance` from one another, inside 0 to 100 if they fit.

    Least squares by pooling adjacent violators (Barlow et al. 1972) of the heights without their distances.
    """
    pools: list[tuple[float, int]] = []
    for rank, height in enumerate(heights):
        total, count = height - rank * distance, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            more, members = pools.pop()
            total, count = total + more, count + members
        pools.append((total, count))
    moved = [total / count for total, count in pools for _ in range(count)]
    low, high = distance / 2, 100 - distance / 2 - (len(moved) - 1) * distance
    return [max(min(height, high), low) + rank * distance for rank, height in enumerate(moved)]


# Lines


@dataclass(frozen=True)
class Line:
    """The mean of some neighbouring layers over checkpoints."""

    kind: int
    first: int
    """Its first layer, and its last."""
    last: int
    path: str
    """In a box of `BOX` by `BOX`, broken where a checkpoint has no number."""
    dots: str
    """A dot at each checkpoint that has a number; with many checkpoints, only at those without neighbours."""


@dataclass(frozen=True)
class Plot:
    """One quantity over checkpoints: a line a layer, or a line for neighbouring layers."""

    name: str
    kind: int | None
    """Its index among quadrants or classes, for its colour."""
    up: Axis
    lines: tuple[Line, ...]
    labels: tuple[Label, ...]
    """Beside the last number of each line."""


@dataclass(frozen=True)
class TrainingFigures:
    """How a study's numbers moved over its checkpoints."""

    checkpoints: tuple[float, ...]
    """Where the checkpoints stand, in percent from the left, at even distances."""
    quadrants: tuple[Plot, ...]
    classes: tuple[Plot, ...]
    """Of the classes that a neuron has at some checkpoint; each plot has its own scale."""
    correlation: tuple[Plot, ...]
    """Pearson's r, and the distance from the checkpoint before."""
    banded: bool
    """Whether lines are means of several layers."""


Measure = Callable[[LayerSummary], tuple[float | None, float]]
"""A layer's number, and its weight in a mean of layers."""


def training_figures(overview: Overview) -> TrainingFigures | None:
    """The figures over checkpoints; None if fewer than two have data."""
    if len(overview.checkpoints) < 2:
        return None
    layers = sorted({layer.layer for checkpoint in overview.checkpoints for layer in checkpoint.layers})
    bands = [band.tolist() for band in np.array_split(layers, min(MOST_LINES, len(layers)))]
    summaries = [{layer.layer: layer for layer in checkpoint.layers} for checkpoint in overview.checkpoints]

    def plots(named: Sequence[tuple[str, int | None, Measure]], together: bool, least: float) -> tuple[Plot, ...]:
        rows = [[[_mean(layers, band, measure) for layers in summaries] for band in bands] for _, _, measure in named]
        values = [[value for series in row for value in series if value is not None] for row in rows]
        if together:
            values = [[value for row in values for value in row]] * len(rows)
        return tuple(
            _plot(name, kind, series, bands, _axis(near, least))
            for (name, kind, _), series, near in zip(named, rows, values, strict=True)
            if near
        )

    present = [
        kind
        for kind in range(len(CLASSES))
        if any(layer.classes[kind] for checkpoint in overview.checkpoints for layer in checkpoint.layers)
    ]
    return TrainingFigures(
        checkpoints=tuple(100 * number / (len(summaries) - 1) for number in range(len(summaries))),
        quadrants=plots([(name, kind, _share_of(kind)) for kind, name in enumerate(QUADRANTS)], True, 0),
        classes=plots([(CLASSES[kind], kind, _class_of(kind)) for kind in present], False, 0),
        correlation=(
            *plots([("correlation", None, lambda layer: (layer.correlation, 1))], False, -1),
            *plots([("moved", None, lambda layer: (layer.moved, layer.compared))], False, 0),
        ),
        banded=len(bands) < len(layers),
    )


def _axis(values: Sequence[float], least: float) -> Axis:
    """An axis from 0 over `values`, which are between `least` and 1; the margins have no ticks."""
    axis = axis_of(min(0.0, *values), max(0.0, *values), least, 1)
    return replace(axis, ticks=tuple(tick for tick in axis.ticks if least - 1e-9 < tick.value < 1 + 1e-9))


def _share_of(kind: int) -> Measure:
    return lambda layer: (None if layer.shares is None else layer.shares[kind], layer.seen)


def _class_of(kind: int) -> Measure:
    return lambda layer: (layer.classes[kind] / layer.neurons if layer.neurons else None, layer.neurons)


def _mean(layers: dict[int, LayerSummary], band: Sequence[int], measure: Measure) -> float | None:
    """The weighted mean over the layers of a band that have a number."""
    measured = [measure(layers[layer]) for layer in band if layer in layers]
    numbers = [(value, weight) for value, weight in measured if value is not None]
    return sum(value * weight for value, weight in numbers) / sum(weight for _, weight in numbers) if numbers else None


def _plot(name: str, kind: int | None, series: Sequence[Sequence[float | None]], bands: Sequence[list[int]], up: Axis) -> Plot:
    lines, ends = [], []
    for number, (values, band) in enumerate(zip(series, bands, strict=True)):
        points = [
            None if value is None else (BOX * step / (len(values) - 1), BOX * (up.high - value) / (up.high - up.low))
            for step, value in enumerate(values)
        ]
        drawn = [point for point in points if point is not None]
        if not drawn:
            continue
        path, pen = "", "M"
        for point in points:
            path += "" if point is None else f"{pen}{point[0]:.0f} {point[1]:.0f}"
            pen = "M" if point is None else "L"
        # A number without neighbours has no line to show it.
        around = [None, *points, None]
        alone = [point for step, point in enumerate(points) if around[step] is None and around[step + 2] is None]
        shown = drawn if len(points) <= MOST_DOTS else [point for point in alone if point is not None]
        dots = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in shown)
        lines.append(Line(number, band[0], band[-1], path, dots))
        ends.append((100 * drawn[-1][1] / BOX, number))
    ends.sort()
    heights = [height for height, _ in ends]
    labels = (Label(line, height, moved) for (height, line), moved in zip(ends, spread(heights, LINE_LABEL), strict=True))
    return Plot(name, kind, up, tuple(lines), tuple(labels))
