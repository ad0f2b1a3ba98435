"""What the position sample says of one neuron: quantiles, the 2-D density of gate and in, examples that are not extreme.

Numbers and indices into the sample only. Choosing the sample belongs to `core.corpus.sample`, drawing to `density`, the
texts around sampled positions to `windows`.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gluscope_assets.core.arrays import Floats, Integers
from gluscope_assets.core.model.activation import ActivationFunction
from gluscope_assets.core.quadrants import ACTIVATIONS

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""The quantiles that a page's tables show."""

RANDOM_EXAMPLES = 8
"""Random examples of a quadrant."""
EXAMPLE_QUANTILES = (0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.01)
"""Where in a quadrant, ordered by |post|, its examples by quantile are taken."""

BINS = 40
"""Cells of the density along gate and along in, about."""
LEAST_SIDE = 0.2
"""Each side of zero gets at least this share of the other, so that all four quadrants are in sight."""

CONFIDENCE = 1.959963984540054
"""Standard errors on either side of a 95 % interval."""


@dataclass(frozen=True)
class SampledNeuron:
    """A neuron at the sampled positions that it saw, in the view of its page."""

    index: Integers
    """[n], indices into the sample, ascending; the sample is in random order."""
    values: Floats
    """[4, n], gate, in, act and post. act and post follow from gate and in as they are kept."""

    @classmethod
    def from_gate_and_in(cls, gate: Floats, in_: Floats, sign: int, function: ActivationFunction) -> "SampledNeuron":
        """Of gate and in as stored, [sample]; NaN where a position was not routed to the neuron's expert."""
        seen = ~np.isnan(gate)
        index = np.flatnonzero(seen)
        if len(index) < len(gate):
            gate, in_ = gate[seen], in_[seen]
        act = function.of_array(gate)
        values = np.stack([gate, in_, act, act * in_])
        if sign < 0:
            values[1::2] *= -1
        return cls(index, values)

    @cached_property
    def _quadrants(self) -> list[Integers]:
        """Of each quadrant, the columns of `values` in it, ascending."""
        gate, in_ = self.values[0], self.values[1]
        code = (gate < 0).view(np.uint8) * np.uint8(2) + (in_ < 0).view(np.uint8)
        code[(gate == 0) | (in_ == 0)] = 4
        # Of bytes, a stable sort takes one pass.
        order = np.argsort(code, kind="stable")
        ends = np.cumsum(np.bincount(code, minlength=5)).tolist()
        return [order[low:high] for low, high in zip([0, *ends], ends[:4], strict=False)]

    @cached_property
    def _by_post(self) -> list[Integers]:
        """Of each quadrant, its columns of `values` in ascending order of |post|, equal ones in the order of the sample."""
        return [_order(self.values[3], inside) for inside in self._quadrants]

    def quantiles(self) -> list[dict[str, list[float]]]:
        """For each quadrant, `QUANTILES` of each activation (linear interpolation); empty where no sampled position falls."""
        out: list[dict[str, list[float]]] = []
        for inside in self._by_post:
            n = len(inside)
            if not n:
                out.append({})
                continue
            values = self.values.take(inside, axis=1)
            values[:3].sort(axis=1)
            # In one quadrant post has one sign, and its sizes are in order.
            if values[3, -1] < 0:
                values[3] = values[3, ::-1].copy()
            at = np.array(QUANTILES) * (n - 1)
            low = np.floor(at).astype(int)
            below, above = values[:, low].astype(np.float64), values[:, np.minimum(low + 1, n - 1)]
            between = below + (above - below) * (at - low)  # [4, quantiles]
            out.append(dict(zip(ACTIVATIONS, between.tolist(), strict=True)))
        return out

    def counts(self) -> list[int]:
        """Sampled positions in each quadrant."""
        return [len(inside) for inside in self._quadrants]

    def random_examples(self, quadrant: int) -> Integers:
        """Columns of `values`: up to `RANDOM_EXAMPLES` of the quadrant's positions, chosen by nothing but their hash."""
        return self._quadrants[quadrant][:RANDOM_EXAMPLES]

    def quantile_examples(self, quadrant: int) -> tuple[Integers, list[float]]:
        """Columns of `values` at `EXAMPLE_QUANTILES` of |post|, and the quantile of each; fewer where positions are few."""
        ordered = self._by_post[quadrant]
        if not len(ordered):
            return ordered, []
        chosen: dict[int, float] = {}
        for quantile in EXAMPLE_QUANTILES:
            chosen.setdefault(round(quantile * (len(ordered) - 1)), quantile)
        return ordered[list(chosen)], list(chosen.values())

    def density(self) -> "Density":
        """Counts over a grid of gate and in, whose lines run through 0."""
        gate, in_ = self.values[0], self.values[1]
        across, up = _edges(gate), _edges(in_)
        flat = np.bincount(up.cell_of(in_) * across.cells + across.cell_of(gate), minlength=up.cells * across.cells)
        return Density(across, up, flat.reshape(up.cells, across.cells))


def _order(values: Floats, columns: Integers) -> Integers:
    """`columns` in ascending order of |values|, ties in ascending order of column."""
    # One sort of integers takes a tenth of argsort's time: the bits of a float without its sign order as its size does.
    size = np.abs(values.take(columns)).view(np.uint32).astype(np.uint64)
    keys = (size << np.uint64(32)) | columns.astype(np.uint64)
    keys.sort()
    ordered: Integers = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return ordered


@dataclass(frozen=True)
class Edges:
    """Equal cells along one axis, one of whose edges is 0."""

    low: float
    width: float
    cells: int
    zero: int
    """The first cell above 0."""

    def cell_of(self, values: Floats) -> npt.NDArray[np.int32]:
        """The cell of each value. Counted from 0, so that rounding carries none over the axis."""
        cell: npt.NDArray[np.int32] = np.floor(values * np.float32(1 / self.width)).astype(np.int32) + self.zero
        np.clip(cell, 0, self.cells - 1, out=cell)
        return cell

    @property
    def high(self) -> float:
        return self.low + self.width * self.cells


@dataclass(frozen=True)
class Density:
    """How many sampled positions fall in each cell of gate and in."""

    across: Edges
    """gate"""
    up: Edges
    """in"""
    counts: Integers
    """[up.cells, across.cells], in ascending order of both."""


def _edges(values: Floats) -> Edges:
    low, high = (min(float(values.min()), 0.0), max(float(values.max()), 0.0)) if len(values) else (0.0, 0.0)
    if low == high:
        low, high = -1.0, 1.0
    low, high = min(low, -LEAST_SIDE * high), max(high, -LEAST_SIDE * low)
    width = (high - low) / (BINS - 1)
    below, above = math.ceil(-low / width), math.ceil(high / width)
    return Edges(-below * width, width, below + above, below)


def frequency_interval(count: int, positions: int) -> tuple[float, float] | None:
    """The 95 % interval of a frequency of which `positions` draws gave `count` (Wilson 1927); None without draws.

    Draws are taken as independent. Positions of one text are not, so a corpus says less than this.
    """
    if not positions:
        return None
    share, z2 = count / positions, CONFIDENCE**2
    centre = (share + z2 / (2 * positions)) / (1 + z2 / positions)
    half = CONFIDENCE * math.sqrt(share * (1 - share) / positions + z2 / (4 * positions**2)) / (1 + z2 / positions)
    # The share itself is inside, whatever rounding says.
    return max(min(centre - half, share), 0.0), min(max(centre + half, share), 1.0)
