"""The picture of a neuron: the density of gate and in with its margins, as the paths that a template puts into SVG.

Paths are drawn in cells of the grid, so that nothing here depends on how large the picture is shown. Colours, sizes and words
belong to the style sheet and the templates, the counts to `distribution`.

Drawn by hand, because every neuron's page holds a picture: as a few paths over whole cells it takes some KB and under a
millisecond, follows the style sheet in light and dark, and turns with the view. Plotting libraries write an element a cell,
with colours of their own, or need a script.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gluscope_assets.core.pages.distribution import Density, Edges

MOST_TICKS = 5
SHADES = 5
"""Shades of the squares of a grid."""
BAR = 100
"""The length of the longest bar of a margin."""


@dataclass(frozen=True)
class Tick:
    """A number at an axis."""

    value: float
    percent: float
    """Of the axis, from its lower end."""
    decimals: int
    """Digits after the point that tell the axis's ticks apart."""


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
        across=_ticks(density.across),
        up=_ticks(density.up),
        zero_across=_percent(0.0, density.across),
        zero_up=100 - _percent(0.0, density.up),
        shades=shades,
        legend=tuple((shade, math.ceil(most ** ((shade - 1) / SHADES) - 1e-9)) for shade, _ in shades),
        most=most,
        gate_bars="".join(f"M{cell}.5 {BAR}v-{size}" for cell, size in _bars(counts.sum(axis=0))),
        in_bars="".join(f"M0 {cell}.5h{size}" for cell, size in _bars(counts.sum(axis=1))),
    )


def shaded(counts: npt.NDArray[Any]) -> tuple[tuple[int, str], ...]:
    """The filled squares of a grid by shade, those beside one another as one line: (shade, path) from 1, the faintest."""
    # Logarithmic: the sparse squares far from the centre show the direction.
    most = max(math.log(counts.max()), 1e-9)
    # An empty square after each row keeps lines from running on into the next one.
    shade = np.zeros((counts.shape[0], counts.shape[1] + 1), dtype=np.uint8)
    shade[:, :-1] = np.where(counts > 0, 1 + np.minimum(SHADES * np.log(np.maximum(counts, 1)) / most, SHADES - 1), 0)
    flat = shade.ravel()
    first = np.flatnonzero(np.diff(flat, prepend=np.uint8(0)))
    shade_of = flat[first]
    # By shade: what is left over is empty. Of bytes, a stable sort takes one pass.
    order = np.argsort(shade_of, kind="stable")
    begins, lengths = _words(*shade.shape)
    # A line is two words. They are looked up and joined without a step of Python's for each.
    words = np.empty((len(order), 2), dtype=object)
    words[:, 0], words[:, 1] = begins[first[order]], lengths[np.diff(first, append=len(flat))[order]]
    ends = np.searchsorted(shade_of[order], np.arange(SHADES + 1), side="right").tolist()
    paths = ((of, "".join(words[low:high].flat)) for of, low, high in zip(range(1, SHADES + 1), ends, ends[1:], strict=False))
    return tuple((of, path) for of, path in paths if path)


@lru_cache
def _words(rows: int, columns: int) -> tuple["np.ndarray[tuple[int], np.dtype[np.object_]]", ...]:
    """How a line begins at each square of a grid, row by row, and the number of squares in a line, up to a whole grid's."""
    begins = [f"M{left} {top}.5h" for top in range(rows) for left in range(columns)]
    return np.array(begins, dtype=object), np.array([str(length) for length in range(rows * columns + 1)], dtype=object)


def _percent(value: float, edges: Edges) -> float:
    return 100 * (value - edges.low) / (edges.high - edges.low)


def _ticks(edges: Edges) -> tuple[Tick, ...]:
    # One at the very end would stick out of the picture.
    return ticks_of(edges.low, edges.high, 0.02 * (edges.high - edges.low))


def _bars(counts: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> list[tuple[int, int]]:
    """(cell, length) of each bar that is not empty. Nothing that is there has no length."""
    lengths = np.ceil(BAR * counts / max(int(counts.max()), 1)).astype(int).tolist()
    return [(cell, length) for cell, length in enumerate(lengths) if length]


def ticks_of(low: float, high: float, margin: float = 0.0) -> tuple[Tick, ...]:
    """Round numbers on an axis from `low` to `high`, 0 among them: at most `MOST_TICKS`, none within `margin` of an end."""
    exponent = math.floor(math.log10(high - low)) - 2
    steps = (factor * 10.0**power for power in range(exponent, exponent + 4) for factor in (1, 2, 5))
    for step in steps:
        numbers = range(math.ceil((low + margin) / step), math.floor((high - margin) / step) + 1)
        if len(numbers) <= MOST_TICKS:
            break
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [float(f"{number * step:.6g}") for number in numbers]
    return tuple(Tick(value, 100 * (value - low) / (high - low), decimals) for value in values)
