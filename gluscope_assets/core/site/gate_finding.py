"""What holds across the neurons of a model: the paper's finding, computed again from the tables.

Numbers only; how a page draws them belongs to `figures`. One neuron's statistics belong to `core.tables.aggregate`, its
cosines to `core.model.weights`.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from gluscope_assets.core.arrays import Doubles
from gluscope_assets.core.site.layer_rows import COUNTS, seen_rows

FEWEST = 3
"""Two neurons always correlate perfectly; fewer than these have no correlation."""


@dataclass(frozen=True)
class LayerFinding:
    """The neurons of one layer that have data, in the tables' order."""

    layer: int
    frequency: Doubles
    """[N], how often gate is positive: the share of gate+ in+ and gate+ in- together."""
    cosine: Doubles
    """[N], cos(w_in, w_out)."""
    correlation: float | None
    """Pearson's r of the two; None for fewer than three neurons and where either does not vary."""
    positions: int
    """Counted positions, over all of which a neuron is counted unless it is an expert's."""
    routed: bool
    """Whether some neurons see only the positions that are routed to their expert; their frequency is of those."""

    @property
    def neurons(self) -> int:
        return len(self.frequency)

    @property
    def mean_frequency(self) -> float | None:
        return float(self.frequency.mean()) if self.neurons else None

    @property
    def mean_cosine(self) -> float | None:
        return float(self.cosine.mean()) if self.neurons else None


@dataclass(frozen=True)
class Finding:
    """cos(w_in, w_out) and the frequency of gate+ in one checkpoint. Neither depends on orientation."""

    checkpoint: str
    """Its key."""
    layers: tuple[LayerFinding, ...]

    @property
    def positions(self) -> int:
        """Counted positions."""
        return max(layer.positions for layer in self.layers)

    @property
    def routed(self) -> bool:
        """Whether any layer is `LayerFinding.routed`."""
        return any(layer.routed for layer in self.layers)


def layer_finding(layer: int, rows: pl.DataFrame) -> LayerFinding:
    """The finding of one layer, from its rows. A neuron has data if it saw a position and its cosine is a number."""
    shown = seen_rows(rows).filter(pl.col("cos_in_out").is_finite())
    frequency = ((shown[COUNTS[0]] + shown[COUNTS[1]]) / shown["routed"]).to_numpy()
    cosine, positions = shown["cos_in_out"].to_numpy(), max(rows["positions"], default=0)
    routed = not rows["routed"].equals(rows["positions"])
    return LayerFinding(layer, frequency, cosine, correlation(frequency, cosine), positions, routed)


def correlation(first: Doubles, second: Doubles) -> float | None:
    """Pearson's r; None for fewer than three pairs and where either side does not vary."""
    # Compared before the means are taken: rounding leaves a constant with a spread.
    if len(first) < FEWEST or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    first, second = first - first.mean(), second - second.mean()
    # Scaled to 1, so that tiny differences do not vanish when they are squared.
    first, second = first / np.abs(first).max(), second / np.abs(second).max()
    r = float(first @ second / np.sqrt((first @ first) * (second @ second)))
    return min(max(r, -1.0), 1.0)
