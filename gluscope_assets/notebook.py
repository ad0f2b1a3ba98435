"""A built study as polars frames, for notebooks: `gluscope_assets.open(storage, study)`.

Reads what the assets wrote and computes nothing from activations. Frames are lazy where they can be large. Pages belong to
`core/pages`; what the columns mean is declared in `core/tables/schema.py`.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import polars as pl

from gluscope_assets.core.corpus.decoder import TokenDecoder, visible
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import Checkpoint
from gluscope_assets.core.pages.formats import SPACES, format_count, format_number, format_share, quadrant_label, signed
from gluscope_assets.core.paths import StudyFolder, default_home
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, View, column
from gluscope_assets.core.tables.orientation import scan_list, scan_neurons
from gluscope_assets.study.sources import built_checkpoints
from gluscope_assets.study.study import Study, find_study

COMPARED = (
    *(f"{quadrant}_routed_frequency" for quadrant in QUADRANTS),
    *("cos_gate_in", "cos_gate_out", "cos_in_out"),
    *("class", "atypical", "orientation"),
)
"""The columns of `OpenedStudy.compare`, each with `_before` and `_after`."""

SHOWN_EXAMPLES = 3
SHOWN_BEFORE, SHOWN_AFTER = 14, 6
"""Examples of a quadrant that `Neuron` shows in a notebook, and tokens before and after their peaks."""


def open_study(storage: str | Path | None, study: str | Path) -> "OpenedStudy":
    """A study and what is built of it.

    `storage` is the folder that `$GLUSCOPE_HOME` names, or None for that. `study` is a name that `gluscope studies` lists, or
    a study file. InputError if there is no such study, or nothing is built of it.
    """
    home = default_home() if storage is None else Path(storage)
    opened = find_study(study)
    return OpenedStudy(opened, StudyFolder(home / opened.name))


class OpenedStudy:
    """The tables of one study. Checkpoints go by their name or their key, and None is the last one.

    `view` is "oriented", the paper's and the pages' view, in which cos(w_gate, w_in) ≥ 0, or "raw", as the model computes.
    """

    def __init__(self, study: Study, folder: StudyFolder) -> None:
        self.study, self.folder = study, folder
        self._decoder = cache(TokenDecoder.from_folder)
        self._checkpoints: dict[str, Checkpoint] = {built.key: built for built in built_checkpoints(study, folder)}
        if not self._checkpoints:
            raise InputError(
                f"Nothing is built of the study {study.name} in {folder.root}; run gluscope build --study {study.name}, or "
                f"give the storage folder that holds it."
            )

    def __repr__(self) -> str:
        return f"<study {self.study.name} in {self.folder.root}: {', '.join(self.checkpoints)}>"

    @property
    def checkpoints(self) -> list[str]:
        """The keys of the checkpoints that have aggregates, in the order of training."""
        return list(self._checkpoints)

    def neurons(self, checkpoint: str | None = None, view: View = "oriented") -> pl.LazyFrame:
        """One row a neuron: `checkpoint`, the described statistics, and the weights' columns."""
        key = self._key(checkpoint)
        layers = self._layers(key)
        aggregates, weights = ([of(key, layer) for layer in layers] for of in (self.folder.aggregate, self.folder.weights))
        frame = scan_neurons(aggregates, weights, _checked(view))
        return frame.select(pl.lit(key).alias("checkpoint"), pl.all())

    def examples(
        self, checkpoint: str | None = None, layer: int | None = None, neuron: int | None = None, view: View = "oriented"
    ) -> pl.LazyFrame:
        """One row an example of all lists, or of the lists of one layer or neuron, strongest first in each list.

        Columns: checkpoint, layer, neuron, quadrant, activation (what the list is ranked by), rank (from 1), value (of that
        activation), post, text (its row in the corpus), position (of the peak in the text, in tokens), document, start (of the
        window in the text), tokens (of the window, as strings), gate and in (of each of them; null where the token was not
        routed to the neuron's expert).
        """
        key = self._key(checkpoint)
        layers = self._layers(key)
        if layer is not None and layer not in layers:
            raise InputError(f"The study {self.study.name} has no layer {layer} at {key}; it has {_listed(layers)}.")
        lists = [
            scan_list(self.folder.tables(key, number), quadrant, activation, _checked(view), neuron)
            for number in (layers if layer is None else [layer])
            for quadrant, activation in LISTS
        ]
        documents = pl.scan_parquet(self.folder.corpus).select("document").with_row_index("text")
        joined = pl.concat(lists).join(
            documents.with_columns(pl.col("text").cast(pl.Int32)), on="text", how="left", maintain_order="left"
        )
        cells = pl.struct("text", "start", count=pl.col("token").list.len())
        tokens = cells.map_batches(partial(self._pieces, key), return_dtype=pl.List(pl.String), is_elementwise=True)
        numbers = ["layer", "neuron", "quadrant", "activation", "rank", "value", "post", "text", "position"]
        own = joined.with_columns(tokens.alias("tokens"), pl.lit(key).alias("checkpoint"))
        return own.select("checkpoint", *numbers, "document", "start", "tokens", "gate", "in")

    def neuron(self, checkpoint: str | None, layer: int, neuron: int, view: View = "oriented") -> "Neuron":
        """One neuron with its statistics and examples; a notebook shows it as a table."""
        key = self._key(checkpoint)
        rows = self.neurons(key, view).filter(pl.col("layer") == layer, pl.col("neuron") == neuron).collect()
        if rows.is_empty():
            width = self.neurons(key).filter(pl.col("layer") == layer).select(pl.len()).collect().item()
            has = f"layer {layer} has {width}" if width else f"it has {_listed(self._layers(key))}"
            raise InputError(f"The study {self.study.name} has no neuron {neuron} in layer {layer} at {key}; {has}.")
        return Neuron(
            checkpoint=key,
            layer=layer,
            neuron=neuron,
            view=view,
            statistics=rows.row(0, named=True),
            examples=self.examples(key, layer, neuron, view).collect(),
        )

    def compare(self, checkpoints: Sequence[str] | None = None, view: View = "oriented") -> pl.LazyFrame:
        """How each neuron differs between successive checkpoints of the list, or of all: one row a neuron and step.

        Columns: layer, neuron, checkpoint_before, checkpoint_after; then with `_before`, `_after` and, where it is a number,
        `_change` (after - before): each quadrant's share of the positions that the neuron sees (`_routed_frequency`), the
        three cosines, `class`, `atypical`, `orientation`; `class_changed` and `orientation_changed`. In the oriented view each
        checkpoint is in its own orientation.
        """
        keys = [self._key(name) for name in (self.checkpoints if checkpoints is None else checkpoints)]
        if len(set(keys)) < 2:
            raise InputError(
                f"A comparison needs two checkpoints; the study {self.study.name} has {', '.join(self.checkpoints)} and "
                f"{', '.join(keys) or 'none'} was given."
            )
        steps = []
        for before, after in pairwise(keys):
            one, two = (self.neurons(key, view).select("layer", "neuron", *COMPARED) for key in (before, after))
            both = one.join(two, on=["layer", "neuron"], suffix="_after", maintain_order="left")
            columns: list[pl.Expr] = []
            for name in COMPARED:
                first, second = pl.col(name), pl.col(f"{name}_after")
                columns += [first.alias(f"{name}_before"), second]
                if name.endswith("_frequency") or name.startswith("cos_"):
                    columns.append((second - first).alias(f"{name}_change"))
                elif name != "atypical":
                    columns.append((first != second).alias(f"{name}_changed"))
            named = [pl.lit(before).alias("checkpoint_before"), pl.lit(after).alias("checkpoint_after")]
            steps.append(both.select("layer", "neuron", *named, *columns))
        return pl.concat(steps)

    def _key(self, checkpoint: str | None) -> str:
        if checkpoint is None:
            return self.checkpoints[-1]
        for key, built in self._checkpoints.items():
            if checkpoint in (key, built.name):
                return key
        raise InputError(
            f"The study {self.study.name} has no checkpoint {checkpoint} that is built; it has {', '.join(self.checkpoints)}."
        )

    def _layers(self, key: str) -> list[int]:
        """The layers of a checkpoint that have aggregates. InputError if one of them has no weights."""
        layers = [layer for layer in self.study.model.layer_numbers if self.folder.tables(key, layer).statistics.is_file()]
        for layer in layers:
            if not self.folder.weights(key, layer).is_file():
                raise InputError(
                    f"{self.folder.weights(key, layer)} does not exist; run gluscope build --study {self.study.name}."
                )
        return layers

    @cached_property
    def corpus(self) -> TokenizedCorpus:
        """The tokenized texts."""
        return TokenizedCorpus.open(self.folder.corpus)

    def _pieces(self, key: str, windows: pl.Series) -> pl.Series:
        """[windows] of structs {text, start, count} to lists of strings, characters whole wherever a window begins."""
        folder, pieces = self._checkpoints[key].folder, []
        for window in windows.to_list():
            text, start, count = window["text"], window["start"], window["count"]
            pieces.append(self._decoder(folder).window_pieces(self.corpus.tokens_of(text), start, count) if count else [])
        return pl.Series(windows.name, pieces, pl.List(pl.String))


def _checked(view: View) -> View:
    if view not in get_args(View):
        raise InputError(f"There is no view {view}; give oriented or raw.")
    return view


def _listed(layers: Sequence[int]) -> str:
    return f"the layers {', '.join(map(str, layers))}" if layers else "no layers"


# One neuron


@dataclass(frozen=True, repr=False)
class Neuron:
    """One neuron of one checkpoint."""

    checkpoint: str
    layer: int
    neuron: int
    view: View
    statistics: dict[str, Any]
    """Its row of `OpenedStudy.neurons`."""
    examples: pl.DataFrame
    """Its rows of `OpenedStudy.examples`."""

    def __repr__(self) -> str:
        shares = ", ".join(f"{quadrant} {format_share(share)}" for quadrant, share in self.shares.items())
        return f"<layer {self.layer}, neuron {self.neuron} of {self.checkpoint}: {shares}>"

    @property
    def shares(self) -> dict[str, float]:
        """Each quadrant's share of the positions that the neuron sees; 0 if it sees none."""
        seen = self.statistics["routed"]
        return {quadrant: self.statistics[f"{quadrant}_count"] / seen if seen else 0.0 for quadrant in QUADRANTS}

    def strongest(self, quadrant: str, activation: str = "post") -> pl.DataFrame:
        """The examples of one list, strongest first."""
        if (quadrant, activation) not in LISTS:
            raise InputError(f"There is no list of {quadrant} by {activation}; act is ranked for gate- alone.")
        return self.examples.filter(pl.col("quadrant") == quadrant, pl.col("activation") == activation)

    def _repr_html_(self) -> str:
        """A table that needs no style sheet, script or file, and takes its colours from what surrounds it."""
        row = self.statistics
        facts = [
            f"<b>layer {self.layer}, neuron {self.neuron}</b> of {html.escape(self.checkpoint)}",
            f"{html.escape(str(row['class']))}{', atypical' if row['atypical'] else ''}",
            *(
                f"cos({first}, {second}) {format_number(row[f'cos_{first}_{second}'], 2)}"
                for first, second in (("gate", "in"), ("gate", "out"), ("in", "out"))
            ),
            f"{self.view} view",
        ]
        means = (f"mean {activation}" for activation in ACTIVATIONS)
        names = ["quadrant", "share", *means, "largest |post|", "strongest by |post|"]
        head = "".join(
            f'<th style="{CELL}text-align:{"left" if name in (names[0], names[-1]) else "right"};font-weight:600">{name}</th>'
            for name in names
        )
        rows = "".join(self._row(quadrant) for quadrant in QUADRANTS)
        return (
            f'<div style="overflow-x:auto;color:inherit;line-height:1.45">'
            f'<div style="margin:0 0 .4em">{" · ".join(facts)}</div>'
            f'<table style="border-collapse:collapse;color:inherit;background:none;font-size:.92em;margin:0">'
            f'<thead><tr style="background:none">{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        )

    def _row(self, quadrant: str) -> str:
        row, count = self.statistics, self.statistics[f"{quadrant}_count"]
        numbers = [
            f"{format_share(self.shares[quadrant])}<br><small>n = {format_count(count)}</small>",
            *(format_number(row[f"{column(quadrant, activation)}_mean"], 3) for activation in ACTIVATIONS),
            format_number(row[f"{quadrant}_post_largest"], 3),
        ]
        cells = "".join(f'<td style="{CELL}text-align:right;white-space:nowrap">{number}</td>' for number in numbers)
        examples = self.strongest(quadrant).head(SHOWN_EXAMPLES).iter_rows(named=True)
        lines = "".join(f'<div style="white-space:nowrap">{_line(example)}</div>' for example in examples)
        label = quadrant_label(quadrant)
        return (
            f'<tr style="background:none"><th style="{CELL}text-align:left;white-space:nowrap;font-weight:600">{label}</th>'
            f'{cells}<td style="{CELL}text-align:left">{lines or "–"}</td></tr>'
        )


CELL = "padding:.25em .7em;border-top:1px solid rgba(128,128,128,.45);vertical-align:top;color:inherit;background:none;"
PEAK = "background:rgba(245,166,35,.4);color:inherit;font-weight:600;padding:0 .1em;border-radius:.15em"
"""Translucent, so that it shows on a light and on a dark ground."""


def _line(example: dict[str, Any]) -> str:
    """One example on one line, its peak marked."""
    value = f'<small style="font-variant-numeric:tabular-nums">{signed(example["post"], 3)}</small>'
    where = html.escape(f"{example['document']}, text {example['text']}, position {example['position']}", quote=True)
    if example["position"] is None:
        return f"{value} <i>text {example['text']}</i>"
    peak = example["position"] - example["start"]
    shown = [html.escape(visible(piece).replace("\n", "")) for piece in example["tokens"]]
    before = SPACES.sub("  ", "".join(shown[max(0, peak - SHOWN_BEFORE) : peak]))
    after = SPACES.sub("  ", "".join(shown[peak + 1 : peak + 1 + SHOWN_AFTER]))
    return (
        f'{value} <code style="background:none;color:inherit;white-space:pre" title="{where}">'
        f'<bdi>{before}</bdi><mark style="{PEAK}">{shown[peak] or "‥"}</mark><bdi>{after}</bdi></code>'
    )
