"""The scatter plots of the paper's finding as geometry: axes, ticks, and the paths that a template puts into SVG.

Paths are drawn in a box that is stretched over the plot, ticks stand at shares of its width and height, so nothing here
depends on how large the plot is shown. Colours, sizes and words belong to the style sheet and the templates, numbers to
`gate_finding`.

Drawn by hand: the figures stand in static pages that load nothing, follow the style sheet in light and dark, and hold thousands
of marks in a few paths. Plotting libraries write an element a mark, with colours and fonts of their own, or need a script.
"""

from dataclasses import dataclass

import numpy as np

from gluscope_assets.core.arrays import Doubles
from gluscope_assets.core.pages.density import Tick, shaded, ticks_of
from gluscope_assets.core.site.gate_finding import Finding, LayerFinding

MOST_MARKS = 2000
"""A layer with more neurons is shown as a grid of squares: marks would cover one another."""
BOX = 1000
"""Width and height of the box that marks are placed in."""
COLUMNS, ROWS = 48, 36
"""Squares of a grid."""
LAYINGS = 4
"""Marks are spread over so many paths: marks of one path do not darken where they overlap, marks of several do."""
MARGIN = 0.04
"""What an axis reaches beyond the values, as a share of their span."""


@dataclass(frozen=True)
class Axis:
    """The values that a plot spans in one direction."""

    low: float
    high: float
    ticks: tuple[Tick, ...]

    def shares(self, values: Doubles) -> Doubles:
        """Where values lie, as a share of the axis from its lower end."""
        return (values - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Panel:
    """The plot of one layer."""

    finding: LayerFinding
    marks: tuple[str, ...]
    """Paths with a dot for each neuron in a box of `BOX` by `BOX`; none if the layer is a grid."""
    shades: tuple[tuple[int, str], ...]
    """(shade, a path of lines of width 1 in a box of `COLUMNS` by `ROWS`) from 1, the faintest."""


@dataclass(frozen=True)
class Figure:
    """One panel a layer, on common axes."""

    finding: Finding
    across: Axis
    """cos(w_in, w_out)."""
    up: Axis
    """The frequency of gate+, 0 to 1."""
    panels: tuple[Panel, ...]

    @property
    def correlations(self) -> list[float]:
        """The correlations of the layers that have one, ascending."""
        return sorted(layer.correlation for layer in self.finding.layers if layer.correlation is not None)

    @property
    def has_grid(self) -> bool:
        return any(panel.shades for panel in self.panels)


def figure_of(finding: Finding) -> Figure | None:
    """The scatter plots of a finding; None if no neuron has data."""
    layers = finding.layers
    cosines = [layer.cosine for layer in layers if layer.neurons]
    if not cosines:
        return None
    # 0 is always shown: left and right of it neurons take back or add to what they read.
    across = axis_of(min(0.0, *(values.min() for values in cosines)), max(0.0, *(values.max() for values in cosines)), -1, 1)
    frequencies = [layer.frequency for layer in layers if layer.neurons]
    up = axis_of(0.0, max(values.max() for values in frequencies), 0, 1)
    return Figure(finding, across, up, tuple(_panel(layer, across, up) for layer in layers))


def axis_of(low: float, high: float, least: float, most: float) -> Axis:
    """An axis over the values from `low` to `high`, which are never outside `least` to `most`."""
    margin = MARGIN * max(high - low, 0.05)
    # The outermost values keep their margin too, so that no mark is cut in half.
    low, high = max(low, least) - margin, min(high, most) + margin
    return Axis(low, high, ticks_of(low, high))


def _panel(layer: LayerFinding, across: Axis, up: Axis) -> Panel:
    x, y = across.shares(layer.cosine), 1 - up.shares(layer.frequency)
    if layer.neurons <= MOST_MARKS:
        points = np.rint(BOX * np.stack([x, y], axis=1)).astype(int).tolist()
        dots = [f"M{left} {top}h0" for left, top in points]
        return Panel(layer, tuple("".join(dots[first::LAYINGS]) for first in range(min(LAYINGS, len(dots)))), ())
    counts, _, _ = np.histogram2d(y, x, bins=(ROWS, COLUMNS), range=((0, 1), (0, 1)))
    return Panel(layer, (), shaded(counts))
