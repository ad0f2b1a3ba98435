"""The unusual neurons of a checkpoint: what makes a neuron unusual, and which neurons of all layers are so most.

Rows of a layer come from `layer_rows`; how the index lists the neurons belongs to the template `overview_unusual.html`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from gluscope_assets.core.pages.formats import MlpIndex
from gluscope_assets.core.site.layer_rows import COUNTS, LARGEST, distances

FEWEST_POSITIONS = 100
"""A neuron that saw fewer positions is not ranked: its shares would say little."""
LISTED = 5
"""Neurons listed for each criterion."""
SELDOM = 0.1
"""A gate that is positive at a smaller share of positions is seldom positive."""
CHANCE = ("0.001", "0.999")
"""The quantiles of cosines between mismatched neurons (`core.model.weights.random_baseline`) that a cosine has to be beyond."""


@dataclass(frozen=True)
class Criterion:
    """What makes a neuron unusual. Expressions are over the columns of `_ranked_rows`; none depends on the view."""

    name: str
    meaning: str
    """One sentence."""
    score: pl.Expr
    """The larger, the more unusual; null for a neuron that is not ranked."""
    columns: tuple[tuple[str, str, pl.Expr], ...]
    """(heading, filter of the templates, value) of what is shown of a neuron."""


@dataclass(frozen=True)
class UnusualNeuron:
    """A neuron that a criterion ranks, with what is shown of it."""

    layer: int
    neuron: int
    mlp_index: MlpIndex | None
    """None in a layer with one gated MLP."""
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


class UnusualNeurons:
    """Gathers the unusual neurons of one checkpoint, a layer at a time."""

    def __init__(self) -> None:
        self._best: list[list[UnusualNeuron]] = [[] for _ in CRITERIA]
        self._ranked = [0] * len(CRITERIA)

    def add_layer(self, layer: int, rows: pl.DataFrame, first: pl.DataFrame | None, provenance: Mapping[str, object]) -> None:
        """Rank the neurons of one more layer.

        `rows` are the layer's, `first` its rows at the first checkpoint, None if that is this one or lacks the layer,
        `provenance` what is recorded in the layer's table of weights.
        """
        ranked = _ranked_rows(rows, first, provenance)
        for number, criterion in enumerate(CRITERIA):
            best, count = _best(criterion, layer, ranked)
            self._best[number] += best
            self._ranked[number] += count

    def rankings(self) -> tuple[Ranking, ...]:
        """One for each criterion that ranks a neuron, in the order of `CRITERIA`."""
        return tuple(
            Ranking(criterion, tuple(sorted(best, key=lambda one: (-one.score, one.layer, one.neuron))[:LISTED]), count)
            for criterion, best, count in zip(CRITERIA, self._best, self._ranked, strict=True)
            if best
        )


def _ranked_rows(rows: pl.DataFrame, first: pl.DataFrame | None, provenance: Mapping[str, object]) -> pl.DataFrame:
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
        # There is no baseline for an MLP of fewer than two neurons.
        chance=mlp.replace_strict(chance, default=None, return_dtype=pl.Float64) if chance else pl.lit(None, pl.Float64),
        # a · g of `core.model.weights.classify`: with one of them 0, no relation of w_gate and w_in is implied.
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
    return rows.join(distances(enough, rows), on="neuron", how="left", maintain_order="left")


def _best(criterion: Criterion, layer: int, rows: pl.DataFrame) -> tuple[list[UnusualNeuron], int]:
    """The neurons of a layer that a criterion ranks first, and how many it ranks."""
    scored = rows.with_columns(score=criterion.score).filter(pl.col("score").is_finite())
    best = scored.sort(["score", "neuron"], descending=[True, False]).head(LISTED)
    values = best.select(value.cast(pl.Float64).alias(str(number)) for number, (_, _, value) in enumerate(criterion.columns))
    neurons = [
        UnusualNeuron(
            layer,
            row["neuron"],
            MlpIndex(row["mlp"], row["expert"], row["index"]) if row["several"] else None,
            float(row["score"]),
            shown,
        )
        for row, shown in zip(best.iter_rows(named=True), values.iter_rows(), strict=True)
    ]
    return neurons, len(scored)
