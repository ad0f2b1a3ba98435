"""What holds across the neurons of a model: the paper's finding, computed again from the tables.

Numbers only; how a page draws them belongs to `figures`. One neuron's statistics belong to `core.tables.aggregate`, its
cosines to `core.model.weights`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from gluscope_assets.core.files import require_file
from gluscope_assets.core.paths import LayerTables

FEWEST = 3
"""Two neurons always correlate perfectly; fewer than these have no correlation."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LayerFinding:
    """The neurons of one layer that have data, in the tables' order."""

    layer: int
    frequency: Floats
    """[N], how often gate is positive: the share of gate+ in+ and gate+ in- together."""
    cosine: Floats
    """[N], cos(w_in, w_out)."""
    correlation: float | None
    """Pearson's r of the two; None for fewer than three neurons and where either does not vary."""

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
    positions: int
    """Counted positions, over all of which a neuron is counted unless it is an expert's."""
    routed: bool
    """Whether some neurons see only the positions that are routed to their expert; their frequency is of those."""
    layers: tuple[LayerFinding, ...]


def gate_frequency_finding(checkpoint: str, layers: Iterable[LayerTables]) -> Finding:
    """The finding of one checkpoint, from the tables of its layers.

    A neuron has data if it saw a position and its cosine is a number.
    """
    findings, positions, routed = [], 0, False
    for tables in layers:
        statistics = pl.scan_parquet(require_file(tables.statistics))
        seen = "routed" if "routed" in statistics.collect_schema().names() else "positions"
        rows = (
            statistics.select("neuron", "positions", "gate+_in+_count", "gate+_in-_count", seen=pl.col(seen))
            .join(
                pl.scan_parquet(require_file(tables.weights)).select("neuron", cosine=pl.col("cos_in_out").cast(pl.Float64)),
                on="neuron",
                maintain_order="left",
            )
            .with_columns(frequency=(pl.col("gate+_in+_count") + pl.col("gate+_in-_count")) / pl.col("seen"))
            .collect()
        )
        positions = max([positions, *rows["positions"]])
        routed = routed or not rows["seen"].equals(rows["positions"])
        rows = rows.filter(pl.col("seen") > 0, pl.col("cosine").is_finite(), pl.col("frequency").is_finite())
        frequency, cosine = rows["frequency"].to_numpy(), rows["cosine"].to_numpy()
        findings.append(LayerFinding(tables.layer, frequency, cosine, correlation(frequency, cosine)))
    return Finding(checkpoint, positions, routed, tuple(findings))


def correlation(first: Floats, second: Floats) -> float | None:
    """Pearson's r; None for fewer than three pairs and where either side does not vary."""
    # Compared before the means are taken: rounding leaves a constant with a spread.
    if len(first) < FEWEST or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    first, second = first - first.mean(), second - second.mean()
    # Scaled to 1, so that tiny differences do not vanish when they are squared.
    first, second = first / np.abs(first).max(), second / np.abs(second).max()
    r = float(first @ second / np.sqrt((first @ first) * (second @ second)))
    return min(max(r, -1.0), 1.0)
