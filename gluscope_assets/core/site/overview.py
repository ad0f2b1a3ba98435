"""The overview of a study: numbers over all neurons of its checkpoints and layers.

Numbers only; how a page draws them belongs to `overview_figures`, the paper's correlation to `gate_finding`, single neurons to
`unusual`, what was measured to `measured`. Tables are read a layer at a time (`layer_rows`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from gluscope_assets.core.files import read_provenance
from gluscope_assets.core.paths import LayerTables
from gluscope_assets.core.quadrants import View
from gluscope_assets.core.site.gate_finding import Finding, LayerFinding, layer_finding
from gluscope_assets.core.site.layer_rows import CLASSES, distances, read_rows, seen_rows, shares_of
from gluscope_assets.core.site.unusual import Ranking, UnusualNeurons
from gluscope_assets.core.tables.orientation import orient


@dataclass(frozen=True)
class LayerSummary:
    """The neurons of one layer at one checkpoint, each of which counts the same."""

    layer: int
    neurons: int
    seen: int
    """Neurons that saw a position, over which the shares are means; an expert may have seen none."""
    positions: int
    """Counted positions."""
    shares: tuple[float, ...] | None
    """Mean share of a neuron's positions in each quadrant, in the view of the overview; None if no neuron saw a position."""
    outside: float | None
    """Mean share of positions in no quadrant, where gate or in is exactly 0. It adds up to 1 with the shares."""
    classes: tuple[int, ...]
    """Neurons of each of `CLASSES`."""
    atypical: tuple[int, ...]
    """Of those, the atypical ones."""
    correlation: float | None
    """Pearson's r of the frequency of gate+ and cos(w_in, w_out), as in `gate_finding`."""
    moved: float | None
    """Mean total variation distance of a neuron's shares from those at the checkpoint before; None if that lacks the layer."""
    compared: int
    """Neurons that saw a position at both."""


@dataclass(frozen=True)
class CheckpointSummary:
    """The layers of one checkpoint that have data, ascending."""

    key: str
    layers: tuple[LayerSummary, ...]

    @property
    def neurons(self) -> int:
        return sum(layer.neurons for layer in self.layers)


@dataclass(frozen=True)
class Overview:
    """The checkpoints of a study that have data, in the order of training."""

    view: View
    """That of the shares. Classes, correlations, distances and unusual neurons are the same in both views."""
    checkpoints: tuple[CheckpointSummary, ...]
    finding: Finding | None
    """Of the last checkpoint."""
    unusual: tuple[Ranking, ...]
    """Of the last checkpoint; one for each criterion that ranks a neuron."""

    @property
    def last(self) -> CheckpointSummary | None:
        return self.checkpoints[-1] if self.checkpoints else None


def overview_of(checkpoints: Sequence[tuple[str, Sequence[LayerTables]]], view: View = "oriented") -> Overview:
    """The overview of (key, tables of its layers) of each checkpoint, in the order of training.

    Checkpoints and layers may be missing. InputError if a file is missing, or tables do not fit each other.
    """
    built = [(key, {tables.layer: tables for tables in layers}) for key, layers in checkpoints if layers]
    if not built:
        return Overview(view, (), None, ())
    last, newest = built[-1]
    summaries: dict[str, list[LayerSummary]] = {key: [] for key, _ in built}
    findings, unusual = [], UnusualNeurons()
    for layer in sorted({layer for _, tables in built for layer in tables}):
        first = before = None
        for number, (key, tables) in enumerate(built):
            rows = read_rows(tables[layer]) if layer in tables else None
            if rows is not None:
                finding = layer_finding(layer, rows)
                summaries[key].append(_summary(finding, rows, before, view))
            if number == 0 and len(built) > 1:
                first = rows
            before = rows
        if layer in newest and before is not None:
            unusual.add_layer(layer, before, first, read_provenance(newest[layer].weights))
            findings.append(finding)
    of_checkpoints = tuple(CheckpointSummary(key, tuple(layers)) for key, layers in summaries.items())
    return Overview(view, of_checkpoints, Finding(last, tuple(findings)), unusual.rankings())


def _summary(finding: LayerFinding, rows: pl.DataFrame, before: pl.DataFrame | None, view: View) -> LayerSummary:
    """The summary of a layer from its `finding`, its `rows` and those at the checkpoint `before`, which may lack the layer."""
    seen = seen_rows(rows)
    shown = orient(seen.lazy()).collect() if view == "oriented" else seen
    means = shares_of(shown).mean(axis=0).tolist() if len(seen) else None
    moved = distances(before, rows)["moved"] if before is not None else pl.Series(dtype=pl.Float64)
    classes = rows.group_by("class").agg(neurons=pl.len(), atypical=pl.col("atypical").sum()).rows_by_key("class", unique=True)
    counts = [classes.get(name, (0, 0)) for name in CLASSES]
    return LayerSummary(
        layer=finding.layer,
        neurons=len(rows),
        seen=len(seen),
        positions=finding.positions,
        shares=tuple(means[:4]) if means else None,
        outside=means[4] if means else None,
        classes=tuple(neurons for neurons, _ in counts),
        atypical=tuple(atypical for _, atypical in counts),
        correlation=finding.correlation,
        moved=float(moved.to_numpy().mean()) if len(moved) else None,
        compared=len(moved),
    )
