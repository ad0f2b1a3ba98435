"""The overview of a study: what was measured, and numbers over all neurons of its checkpoints and layers.

Numbers only; how a page draws them belongs to `overview_figures`, the paper's correlation to `findings`, one neuron's numbers
to `aggregate` and `weights`. Tables are read a layer at a time and only in the columns needed: memory does not grow with
layers or checkpoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import read_provenance, require_file
from gluscope_assets.core.pages.formats import Place
from gluscope_assets.core.paths import LayerTables
from gluscope_assets.core.quadrants import QUADRANTS
from gluscope_assets.core.site.gate_finding import Finding, correlation, gate_frequency_finding
from gluscope_assets.core.tables.orientation import orient

CLASSES = (
    "strengthening",
    "conditional strengthening",
    "proportional change",
    "orthogonal output",
    "conditional weakening",
    "weakening",
)
"""The input-output classes (Gerstner & Schütze 2025), from neurons that write what they read to those that take it back."""

FEWEST_POSITIONS = 100
"""A neuron that saw fewer positions is not ranked: its shares would say little."""
LISTED = 5
"""Neurons listed for each criterion."""
SELDOM = 0.1
"""A gate that is positive at a smaller share of positions is seldom positive."""
CHANCE = ("0.001", "0.999")
"""The quantiles of cosines between mismatched neurons (`weights.random_baseline`) that a cosine has to be beyond."""

Floats = npt.NDArray[np.float64]
View = Literal["oriented", "raw"]


# What was measured


@dataclass(frozen=True)
class Pass:
    """A forward pass with its reduction, as it was recorded when it ran. None is what was not recorded."""

    layers: tuple[int, ...]
    """Those that it measured."""
    date: str
    """When it ended: day and minute, UTC."""
    tokens: int | None
    """Forwarded in it, special tokens included."""
    seconds: float | None
    resumed: int
    """Shards that an earlier pass, which was stopped, had finished: its time is not in `seconds`."""
    device: str | None
    dtype: str | None
    software: tuple[tuple[str, str], ...]
    """(package, version)"""


@dataclass(frozen=True)
class MeasuredCheckpoint:
    """Where a checkpoint came from and what measuring it cost."""

    name: str
    source: str
    """A Hub repository at a revision, or the name of a folder."""
    weights_hash: str
    """SHA-256 in hex over config.json and the safetensors files."""
    passes: tuple[Pass, ...]


@dataclass(frozen=True)
class Measurement:
    """What the numbers of a study were measured on, and how."""

    description: str
    corpus_hash: str
    """SHA-256 in hex over texts, cut and special tokens."""
    texts: int
    tokens: int
    """Counted: without special tokens, unless the study counts them."""
    options: tuple[tuple[str, str], ...]
    """(option in words, value)"""
    checkpoints: tuple[MeasuredCheckpoint, ...]

    @property
    def seconds(self) -> float | None:
        """Of all passes together; None if one did not record them."""
        seconds = [ran.seconds for checkpoint in self.checkpoints for ran in checkpoint.passes]
        known = [value for value in seconds if value is not None]
        return sum(known) if known and len(known) == len(seconds) else None

    @property
    def dates(self) -> tuple[str, ...]:
        """The days of the passes, ascending."""
        return tuple(sorted({ran.date.split()[0] for checkpoint in self.checkpoints for ran in checkpoint.passes}))

    @property
    def software(self) -> dict[str, str]:
        """The version of each package, or its versions where passes differ."""
        found: dict[str, dict[str, None]] = {}
        for checkpoint in self.checkpoints:
            for ran in checkpoint.passes:
                for package, version in ran.software:
                    found.setdefault(package, {})[version] = None
        return {package: ", ".join(versions) for package, versions in found.items()}


# Layers


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
    """Pearson's r of the frequency of gate+ and cos(w_in, w_out), as in `findings`."""
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


# Unusual neurons


@dataclass(frozen=True)
class Criterion:
    """What makes a neuron unusual. Expressions are over the columns that `_ranked` adds; none depends on the view."""

    name: str
    meaning: str
    """One sentence."""
    score: pl.Expr
    """The larger, the more unusual; null for a neuron that is not ranked."""
    columns: tuple[tuple[str, str, pl.Expr], ...]
    """(heading, filter of the templates, value) of what is shown of a neuron."""


@dataclass(frozen=True)
class UnusualNeuron:
    layer: int
    neuron: int
    place: Place | None
    """Its place in a layer with several gated MLPs."""
    score: float
    values: tuple[float, ...]
    """One for each of the criterion's columns."""


@dataclass(frozen=True)
class Ranking:
    """The neurons that a criterion ranks first, at most `LISTED`."""

    criterion: Criterion
    neurons: tuple[UnusualNeuron, ...]
    ranked: int
    """Neurons that it ranks."""


CRITERIA = (
    Criterion(
        "Uses all four quadrants",
        "The rarest of its quadrants still holds this share of its positions; 25% is the most there can be.",
        pl.col("rarest"),
        (("rarest quadrant", "share", pl.col("rarest")),),
    ),
    Criterion(
        "Seldom positive gate, strong post",
        "Gate is positive at less than 10% of positions; the largest |post| there is this multiple of its layer's median.",
        pl.when(pl.col("gate") < SELDOM).then(pl.col("open_times")),
        (("gate+", "share", pl.col("gate")), ("× median", "times", pl.col("open_times"))),
    ),
    Criterion(
        "Writes most",
        "The longest vector that it adds to the residual stream, |post| · ‖out‖, is this multiple of its layer's median.",
        pl.col("written_times"),
        (("largest |post|", "number", pl.col("post")), ("× median", "times", pl.col("written_times"))),
    ),
    Criterion(
        "Writes along what it reads",
        "cos(in, out) is farthest beyond chance, within which lie 99.8% of the cosines between mismatched neurons of its MLP.",
        pl.when(pl.col("cos_in_out").abs() > pl.col("chance")).then(pl.col("cos_in_out").abs() - pl.col("chance")),
        (("cos(in, out)", "cosine", pl.col("cos_in_out")), ("chance ±", "cosine", pl.col("chance"))),
    ),
    Criterion(
        "Least like its class",
        "Atypical, with cos(gate, in) farthest from what the cosines of both with out imply.",
        pl.when(pl.col("atypical")).then((pl.col("cos_gate_in") - pl.col("implied")).abs()),
        (("cos(gate, in)", "cosine", pl.col("cos_gate_in")), ("implied", "cosine", pl.col("implied"))),
    ),
    Criterion(
        "Moved most in training",
        "At least this share of its positions lies in another quadrant than at the first checkpoint.",
        pl.col("moved"),
        (("changed", "share", pl.col("moved")),),
    ),
)


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
    known = [(key, {tables.layer: tables for tables in layers}) for key, layers in checkpoints if layers]
    if not known:
        return Overview(view, (), None, ())
    last, newest = known[-1]
    summaries: dict[str, list[LayerSummary]] = {key: [] for key, _ in known}
    lists: list[list[UnusualNeuron]] = [[] for _ in CRITERIA]
    ranked = [0] * len(CRITERIA)
    for layer in sorted({layer for _, tables in known for layer in tables}):
        first = before = None
        for place, (key, tables) in enumerate(known):
            rows = _read(tables[layer]) if layer in tables else None
            if rows is not None:
                summaries[key].append(_summary(layer, rows, before, view))
            if place == 0:
                first = rows
            before = rows
        if layer in newest and before is not None:
            frame = _ranked(before, first if len(known) > 1 else None, read_provenance(newest[layer].weights))
            for place, criterion in enumerate(CRITERIA):
                best, count = _best(criterion, layer, frame)
                lists[place].extend(best)
                ranked[place] += count
    unusual = [
        Ranking(criterion, tuple(sorted(found, key=lambda one: (-one.score, one.layer, one.neuron))[:LISTED]), count)
        for criterion, found, count in zip(CRITERIA, lists, ranked, strict=True)
        if found
    ]
    finding = gate_frequency_finding(last, [newest[layer] for layer in sorted(newest)])
    return Overview(
        view, tuple(CheckpointSummary(key, tuple(layers)) for key, layers in summaries.items()), finding, tuple(unusual)
    )


COUNTS = tuple(f"{quadrant}_count" for quadrant in QUADRANTS)
LARGEST = tuple(f"{quadrant}_post_largest" for quadrant in QUADRANTS)
STATISTICS = ("neuron", "mlp", "expert", "index", "positions", "routed", "zero", *COUNTS, *LARGEST)
WEIGHTS = ("neuron", "orientation", "cos_gate_in", "cos_gate_out", "cos_in_out", "norm_out", "class", "atypical")


def _read(tables: LayerTables) -> pl.DataFrame:
    """One row a neuron, raw, in the tables' order."""
    rows = (
        pl.scan_parquet(require_file(tables.statistics))
        .select(STATISTICS)
        .join(pl.scan_parquet(require_file(tables.weights)).select(WEIGHTS), on="neuron", how="left", maintain_order="left")
        .with_columns(pl.col("cos_gate_in", "cos_gate_out", "cos_in_out", "norm_out").cast(pl.Float64))
        .collect()
    )
    unknown = rows.filter(~pl.col("class").is_in(CLASSES).fill_null(False))
    if len(unknown):
        raise InputError(
            f"{tables.weights} has the class {unknown['class'][0]} for neuron {unknown['neuron'][0]}, which is none of the "
            "six; delete it and run gluscope build."
        )
    return rows


def _shares(rows: pl.DataFrame) -> Floats:
    """[neurons, 5]: the shares of the positions that a neuron saw in each quadrant, and in none."""
    counts: Floats = rows.select(*COUNTS, "zero").to_numpy().astype(np.float64)
    # Of the counts and not of `routed`, which is their sum: so the shares add up to 1 whatever is rounded.
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _seen(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("routed") > 0)


def _distances(before: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """`neuron` and `moved`, the total variation distance ½ Σ |p - q| of its raw shares, of neurons that saw a position at both.

    Raw, because the orientation of a neuron may flip while its weights hardly change, and shares would change places.
    """
    first, second = (_seen(frame).select("neuron", *COUNTS, "zero") for frame in (before, rows))
    both = second.join(first, on="neuron", suffix="_before", maintain_order="left")
    earlier = both.select("neuron", pl.col("^.*_before$").name.map(lambda name: name.removesuffix("_before")))
    distance = np.abs(_shares(both) - _shares(earlier)).sum(axis=1) / 2
    return both.select("neuron", moved=pl.Series(distance, dtype=pl.Float64))


def _summary(layer: int, rows: pl.DataFrame, before: pl.DataFrame | None, view: View) -> LayerSummary:
    seen = _seen(rows)
    shown = orient(seen.lazy()).collect() if view == "oriented" else seen
    means = _shares(shown).mean(axis=0).tolist() if len(seen) else None
    moved = _distances(before, rows)["moved"] if before is not None else pl.Series(dtype=pl.Float64)
    paired = seen.filter(pl.col("cos_in_out").is_finite())
    gate = (paired[COUNTS[0]] + paired[COUNTS[1]]) / paired["routed"]
    classes = rows.group_by("class").agg(neurons=pl.len(), atypical=pl.col("atypical").sum()).rows_by_key("class", unique=True)
    counts = [classes.get(name, (0, 0)) for name in CLASSES]
    return LayerSummary(
        layer=layer,
        neurons=len(rows),
        seen=len(seen),
        positions=int(rows["positions"][0]) if len(rows) else 0,
        shares=tuple(means[:4]) if means else None,
        outside=means[4] if means else None,
        classes=tuple(neurons for neurons, _ in counts),
        atypical=tuple(atypical for _, atypical in counts),
        correlation=correlation(gate.to_numpy(), paired["cos_in_out"].to_numpy()),
        moved=float(moved.to_numpy().mean()) if len(moved) else None,
        compared=len(moved),
    )


def _ranked(rows: pl.DataFrame, first: pl.DataFrame | None, provenance: Mapping[str, object]) -> pl.DataFrame:
    """A layer's neurons that saw enough positions, with what the criteria are about."""
    baselines = provenance.get("random_baseline")
    chance = {
        mlp: max(abs(float(quantiles["cos_in_out"][name])) for name in CHANCE)
        for mlp, quantiles in (baselines.items() if isinstance(baselines, dict) else ())
        if all(name in quantiles.get("cos_in_out", {}) for name in CHANCE)
    }
    mlp = pl.when(pl.col("expert").is_null()).then("mlp").otherwise(pl.format("{}, expert {}", "mlp", "expert"))
    rows = rows.filter(pl.col("routed") >= FEWEST_POSITIONS).with_columns(
        rarest=pl.min_horizontal(COUNTS) / pl.col("routed"),
        gate=(pl.col(COUNTS[0]) + pl.col(COUNTS[1])) / pl.col("routed"),
        post=pl.max_horizontal(LARGEST),
        open=pl.max_horizontal(LARGEST[:2]),
        # No baseline is known for an MLP of fewer than two neurons.
        chance=mlp.replace_strict(chance, default=None, return_dtype=pl.Float64) if chance else pl.lit(None, pl.Float64),
        # a · g of `weights.classify`: with one of them 0, no relation of w_gate and w_in is implied.
        implied=pl.when(pl.col("class") == "strengthening")
        .then(pl.col("cos_gate_out").sign())
        .when(pl.col("class") == "weakening")
        .then(-pl.col("cos_gate_out").sign())
        .otherwise(0.0),
        several=((pl.col("index") != pl.col("neuron")) | pl.col("expert").is_not_null()).any(),
    )
    rows = rows.with_columns(written=pl.col("post") * pl.col("norm_out"))
    rows = rows.with_columns(
        open_times=pl.col("open") / pl.col("open").median(), written_times=pl.col("written") / pl.col("written").median()
    )
    if first is None:
        return rows.with_columns(moved=pl.lit(None, pl.Float64))
    enough = first.filter(pl.col("routed") >= FEWEST_POSITIONS)
    return rows.join(_distances(enough, rows), on="neuron", how="left", maintain_order="left")


def _best(criterion: Criterion, layer: int, rows: pl.DataFrame) -> tuple[list[UnusualNeuron], int]:
    """The neurons of a layer that a criterion ranks first, and how many it ranks."""
    scored = rows.with_columns(score=criterion.score).filter(pl.col("score").is_finite())
    best = scored.sort(["score", "neuron"], descending=[True, False]).head(LISTED)
    values = best.select(value.cast(pl.Float64).alias(str(place)) for place, (_, _, value) in enumerate(criterion.columns))
    found = [
        UnusualNeuron(
            layer,
            row["neuron"],
            Place(row["mlp"], row["expert"], row["index"]) if row["several"] else None,
            float(row["score"]),
            shown,
        )
        for row, shown in zip(best.iter_rows(named=True), values.iter_rows(), strict=True)
    ]
    return found, len(scored)
