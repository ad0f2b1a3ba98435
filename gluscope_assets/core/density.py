"""The picture of a neuron: the density of gate and in with its margins, as the paths that a template puts into SVG.

Places are cells of the grid, so that nothing here depends on how large the picture is shown. Colours, sizes and words belong
to the style sheet and the templates, the counts to `distribution`.
"""

import math
from dataclasses import dataclass

import numpy as np

from gluscope_assets.core.distribution import Density, Edges, ticks
from gluscope_assets.core.figures import SHADES, shaded

MOST_TICKS = 5
BAR = 100
"""The length of the longest bar of a margin."""


@dataclass(frozen=True)
class Tick:
    value: float
    place: float
    """In percent of the axis, from the left or from the top."""


@dataclass(frozen=True)
class Picture:
    """What the template draws."""

    columns: int
    rows: int
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    zero_across: float
    """Where gate is 0, in percent from the left."""
    zero_up: float
    """Where in is 0, in percent from the top."""
    shades: tuple[tuple[int, str], ...]
    """(shade, a path of lines of width 1) from 1, the faintest."""
    legend: tuple[tuple[int, int], ...]
    """(shade, the fewest positions of a cell that has it)."""
    most: int
    """The most positions of a cell."""
    gate_bars: str
    """A path in a box of `columns` by `BAR`, from its lower side."""
    in_bars: str
    """A path in a box of `BAR` by `rows`, from its left side."""


def picture_of(density: Density) -> Picture:
    """The picture of a density, gate to the right and in upwards."""
    # The first row of a picture is its uppermost.
    counts = density.counts[::-1]
    most = int(counts.max())
    shades = shaded(counts) if most else ()
    return Picture(
        columns=density.across.cells,
        rows=density.up.cells,
        across=tuple(Tick(value, _place(value, density.across)) for value in _ticks(density.across)),
        up=tuple(Tick(value, 100 - _place(value, density.up)) for value in _ticks(density.up)),
        zero_across=_place(0.0, density.across),
        zero_up=100 - _place(0.0, density.up),
        shades=shades,
        legend=tuple((shade, math.ceil(most ** ((shade - 1) / SHADES) - 1e-9)) for shade, _ in shades),
        most=most,
        gate_bars="".join(f"M{place}.5 {BAR}v-{size}" for place, size in _bars(counts.sum(axis=0))),
        in_bars="".join(f"M0 {place}.5h{size}" for place, size in _bars(counts.sum(axis=1))),
    )


def _place(value: float, edges: Edges) -> float:
    return 100 * (value - edges.low) / (edges.high - edges.low)


def _ticks(edges: Edges) -> list[float]:
    # One at the very end would stick out of the picture.
    margin = 0.02 * (edges.high - edges.low)
    return list(ticks(edges.low + margin, edges.high - margin, MOST_TICKS))


def _bars(counts: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> list[tuple[int, int]]:
    """(cell, length) of each bar that is not empty. Nothing that is there has no length."""
    lengths = np.ceil(BAR * counts / max(int(counts.max()), 1)).astype(int).tolist()
    return [(place, length) for place, length in enumerate(lengths) if length]
