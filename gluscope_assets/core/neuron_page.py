"""Neuron pages: the tables of one layer to a page a neuron.

Templates and static files lie in `site/`. Packing of examples belongs to `page_data`, what surrounds the pages to `site`,
checks on the result to `links`. Nothing is computed from activations here beyond what a page shows of its tables.
"""

import base64
import math
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gluscope_assets.core.activation import activation_function
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import read_provenance, require_file
from gluscope_assets.core.formats import Place, format_number, signed
from gluscope_assets.core.page_data import ExampleColumn, PackedExamples, Texts, Vocabulary, pack_examples
from gluscope_assets.core.progress import Progress, no_progress
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, column, oriented_quadrant
from gluscope_assets.core.site_map import SiteMap
from gluscope_assets.core.templates import environment, write_page
from gluscope_assets.core.tokens import TokenDecoder, visible

NEURONS_AT_ONCE = 32
"""Neurons whose examples are in memory together."""
STATIC_EXAMPLES = 3
"""Examples of each quadrant that are readable without JavaScript."""
_SPACES = re.compile(" {3,}")

TABLE_NEURONS = 2048
"""A layer with more pages lists them as plain links, without a row of figures each."""


@dataclass(frozen=True)
class RenderReport:
    """What was written."""

    pages: int
    bytes: int
    largest_bytes: int
    samples: tuple[str, ...]
    """Up to three pages, relative to the site."""


@dataclass(frozen=True)
class QuadrantView:
    """One quadrant of one neuron as its page shows it."""

    name: str
    count: int
    share: float
    """Of the positions routed to the neuron's expert; of all for a neuron that sees all."""
    rows: list[tuple[str, list[str]]]
    """(activation, [mean, standard deviation, value with the largest size]) as text."""
    examples: list["StaticExample"] = field(default_factory=list)


@dataclass(frozen=True)
class StaticExample:
    """One line of text with its peak, for readers without JavaScript."""

    post: float
    value: str
    """`post` as the page shows it."""
    left: str
    peak: str
    right: str
    near_left: str
    """The end of `left` for a narrow place, runs of spaces shortened."""
    near_right: str
    document: str
    text: int
    position: int


@dataclass(frozen=True)
class Summary:
    """What the page of a layer shows of one neuron."""

    neuron: int
    place: Place | None
    shares: list[float]
    """[4], the quadrants' shares in the page's view."""
    input_output_class: str
    best: StaticExample | None
    """The example with the largest |post|."""


@dataclass(frozen=True)
class NeuronPage:
    """One neuron's page, not yet written."""

    neuron: int
    files: dict[str, bytes]
    """Contents by name; the names stand beside one another in the layer's folder. The first is the page."""
    summary: Summary

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))


class LayerPages:
    """Makes the pages of one layer of one checkpoint from its tables, which are opened once.

    `aggregate` is the folder with statistics.parquet and examples.parquet, `weights` the layer's file of weights.
    """

    def __init__(
        self,
        site_map: SiteMap,
        checkpoint_key: str,
        layer: int,
        aggregate: Path,
        weights: Path,
        corpus: Texts,
        decoder: TokenDecoder,
        activation: str,
        view: str = "oriented",
        count_special_tokens: bool = False,
    ) -> None:
        self.site_map, self.checkpoint_key, self.layer = site_map, checkpoint_key, layer
        self.aggregate, self.corpus, self.view, self.activation = aggregate, corpus, view, activation
        self.neurons = site_map.neurons(checkpoint_key, layer)
        """Those that get a page when the site is built. Any other can be asked for."""
        self._statistics = _rows_by_neuron(aggregate / "statistics.parquet")
        self._several = any(row["expert"] is not None or row["index"] != row["neuron"] for row in self._statistics.values())
        self._weights = _rows_by_neuron(weights)
        self._baselines = read_provenance(weights).get("random_baseline", {})
        self._vocabulary = Vocabulary(decoder)
        self._template = environment().get_template("neuron.html")
        self._shared = {
            "root": "../../",
            "map": site_map,
            "key": checkpoint_key,
            "checkpoint": site_map.name_of(checkpoint_key),
            "layer": layer,
            "function": activation_function(activation),
            "view": view,
            "provenance": _shown_provenance(read_provenance(aggregate / "statistics.parquet")),
            "special": [] if count_special_tokens else sorted(corpus.special_token_ids),
        }

    def pages(self, neurons: Iterable[int]) -> Iterator[NeuronPage]:
        """The pages of `neurons` in the tables' order. InputError if the tables lack one."""
        wanted = set(neurons)
        for neuron, lists, row in _examples(self.aggregate / "examples.parquet", wanted):
            wanted.remove(neuron)
            yield self._page(neuron, lists, row)
        if wanted:
            raise InputError(
                f"{self.aggregate / 'examples.parquet'} lacks {len(wanted)} of the neurons asked for, such as {min(wanted)}; "
                "materialize quadrant_aggregates again."
            )

    def _page(self, neuron: int, lists: dict[str, ExampleColumn], row: int) -> NeuronPage:
        statistics, weights = self._statistics[neuron], self._weights[neuron]
        orientation = int(weights["orientation"])
        sign = orientation if self.view == "oriented" else 1
        quadrant_of = {name: oriented_quadrant(name, sign) for name in QUADRANTS}
        packed = pack_examples(
            [(ranked, lists[column(quadrant_of[quadrant], ranked)]) for quadrant, ranked in LISTS],
            row,
            sign,
            self.corpus,
            self._vocabulary,
        )
        counts, quadrants, scale = _statistics(statistics, quadrant_of, sign)
        quadrants = [replace(quadrant, examples=_static_examples(packed, quadrant.name, self.corpus)) for quadrant in quadrants]
        place = bisect_left(self.neurons, neuron)
        data = {
            "layer": self.layer,
            "neuron": neuron,
            "function": self.activation,
            "special": self._shared["special"],
            "scale": scale,
            "lists": packed.lists,
            "counts": counts,
            "sizes": packed.sizes,
            "packed": base64.b64encode(packed.packed).decode("ascii"),
        }
        text = self._template.render(
            **self._shared,
            neuron=neuron,
            previous=self.neurons[place - 1] if place else None,
            next=self.neurons[place + 1] if place + 1 < len(self.neurons) else None,
            orientation=orientation,
            sign=sign,
            place=_place(statistics, self._several),
            positions=statistics["positions"],
            routed=statistics["routed"],
            zero=statistics["zero"],
            quadrants=quadrants,
            weights=_weights(weights, sign, self._vocabulary),
            chance=_chance(self._baselines, weights),
            data=data,
        )
        shares = [quadrant.share for quadrant in quadrants]
        summary = Summary(neuron, _place(statistics, self._several), shares, weights["class"], _best(quadrants))
        return NeuronPage(neuron, {f"{neuron}.html": text.encode("utf-8", "replace")}, summary)

    def index(self, summaries: Iterable[Summary]) -> bytes:
        """The page of the layer, which lists its neurons' pages."""
        ordered = sorted(summaries, key=lambda summary: summary.neuron)
        template = environment().get_template("layer.html")
        width, table = dict(self.site_map.layers)[self.layer], len(ordered) <= TABLE_NEURONS
        return template.render(**self._shared, neurons=ordered, width=width, table=table).encode("utf-8", "replace")


def render_neuron_pages(site: Path, layer_pages: LayerPages, progress: Progress = no_progress) -> RenderReport:
    """Write the pages of one layer of one checkpoint into `site/<checkpoint key>/<layer>/`.

    Pages of neurons that are no longer selected are deleted. Progress counts pages.
    """
    neurons = layer_pages.neurons
    key, layer = layer_pages.checkpoint_key, layer_pages.layer
    folder = site / key / f"{layer:02d}"
    _remove_other_pages(folder, {f"{neuron}.html" for neuron in neurons} | ({"index.html"} if neurons else set()))
    if not neurons:
        return RenderReport(0, 0, 0, ())
    total = largest = 0
    summaries = []
    for page in layer_pages.pages(neurons):
        for name, content in page.files.items():
            write_page(folder / name, content)
        total, largest = total + page.size, max(largest, page.size)
        summaries.append(page.summary)
        progress(len(summaries), len(neurons))
    total += write_page(folder / "index.html", layer_pages.index(summaries))
    samples = dict.fromkeys(neurons[place] for place in (0, len(neurons) // 2, len(neurons) - 1))
    return RenderReport(len(summaries), total, largest, tuple(f"{key}/{layer:02d}/{neuron}.html" for neuron in samples))


def _rows_by_neuron(path: Path) -> dict[int, dict[str, Any]]:
    return {row["neuron"]: row for row in pq.read_table(require_file(path)).to_pylist()}


def _examples(path: Path, selected: set[int]) -> Iterator[tuple[int, dict[str, ExampleColumn], int]]:
    """(neuron, its batch's lists, its row in the batch) for each selected neuron, with one batch in memory."""
    names = ["neuron", *(column(quadrant, ranked) for quadrant, ranked in LISTS)]
    with pq.ParquetFile(require_file(path)) as file:
        for batch in file.iter_batches(batch_size=NEURONS_AT_ONCE, columns=names):
            rows = [(row, neuron) for row, neuron in enumerate(batch["neuron"].to_pylist()) if neuron in selected]
            if rows:
                lists = {name: ExampleColumn.from_arrow(batch[name]) for name in names[1:]}
                for row, neuron in rows:
                    yield neuron, lists, row


def _statistics(
    row: Mapping[str, Any], quadrant_of: Mapping[str, str], sign: int
) -> tuple[list[int], list[QuadrantView], dict[str, float]]:
    """Counts, the quadrants' tables, and the largest |value| of each activation, for one neuron in the page's view."""
    scale = dict.fromkeys(ACTIVATIONS, 0.0)
    quadrants = []
    for name, raw in quadrant_of.items():
        count = row[f"{raw}_count"]
        rows = []
        for activation in ACTIVATIONS:
            prefix = column(raw, activation)
            if not count:
                rows.append((activation, ["–"] * 3))
                continue
            mean, size = row[f"{prefix}_sum"] / count, row[f"{prefix}_largest"]
            deviation = math.sqrt(max(row[f"{prefix}_sum_of_squares"] / count - mean * mean, 0.0))
            if sign < 0 and activation in ("in", "post"):
                mean = -mean
            scale[activation] = max(scale[activation], size)
            rows.append((activation, [format_number(value) for value in (mean, deviation, math.copysign(size, mean))]))
        quadrants.append(QuadrantView(name, count, count / row["routed"] if row["routed"] else 0.0, rows))
    return [quadrant.count for quadrant in quadrants], quadrants, scale


def _place(row: Mapping[str, Any], several: bool) -> Place | None:
    """Where a neuron stands in a layer with several gated MLPs; None in a layer with one, where its number says it."""
    return Place(row["mlp"], row["expert"], row["index"]) if several else None


def _static_examples(packed: PackedExamples, quadrant: str, texts: Texts) -> list[StaticExample]:
    """The first examples of a quadrant by |post|."""
    place = LISTS.index((quadrant, "post"))
    head = sum(packed.lists[:place])
    out = []
    for example in range(head, head + min(packed.lists[place], STATIC_EXAMPLES)):
        first, peak, end = int(packed.first[example]), int(packed.peak[example]), int(packed.end[example])
        shown = [packed.pieces[piece].replace("\n", "") for piece in packed.piece[first:end]]
        left, right = shown[: peak - first], shown[peak - first + 1 :]
        out.append(
            StaticExample(
                post=float(packed.post[example]),
                value=signed(float(packed.post[example])),
                left="".join(left),
                peak=shown[peak - first],
                right="".join(right),
                near_left=_SPACES.sub("  ", "".join(left[-20:])),
                near_right=_SPACES.sub("  ", "".join(right[:16])),
                document=visible(texts.document_of(int(packed.text[example]))),
                text=int(packed.text[example]),
                position=int(packed.position[example]),
            )
        )
    return out


def _best(quadrants: Sequence[QuadrantView]) -> StaticExample | None:
    """The example with the largest |post| of all quadrants."""
    found = [quadrant.examples[0] for quadrant in quadrants if quadrant.examples]
    return max(found, key=lambda example: abs(example.post), default=None)


def _weights(row: Mapping[str, Any], sign: int, vocabulary: Vocabulary) -> dict[str, Any]:
    """The weights' view of one neuron in the page's view: w_in and w_out multiplied by `sign`."""

    def chips(name: str, factor: int = 1) -> list[tuple[str, str]]:
        return [
            (
                vocabulary[entry["token"]].replace("\n", ""),
                f"token {entry['token']}, {signed(factor * entry['score'], 3)}",
            )
            for entry in row[name] or ()
        ]

    swapped = sign < 0
    return {
        "class": row["class"],
        "atypical": row["atypical"],
        "cosines": [
            ("gate", "in", sign * row["cos_gate_in"]),
            ("gate", "out", sign * row["cos_gate_out"]),
            ("in", "out", row["cos_in_out"]),
        ],
        "promoted": chips("suppressed" if swapped else "promoted", sign),
        "suppressed": chips("promoted" if swapped else "suppressed", sign),
        "gate_positive": chips("gate_positive"),
        "gate_negative": chips("gate_negative"),
        "in_positive": chips("in_negative" if swapped else "in_positive", sign),
        "in_negative": chips("in_positive" if swapped else "in_negative", sign),
    }


def _chance(baselines: Any, row: Mapping[str, Any]) -> tuple[str, str] | None:
    """How large 98 of 100 cosines of w_in and w_out of mismatched neurons are at most, and of random directions."""
    name = row["mlp"] if row["expert"] is None else f"{row['mlp']}, expert {row['expert']}"
    mismatched = baselines.get(name, {})
    if "cos_in_out" not in mismatched:
        return None
    both = (mismatched["cos_in_out"], mismatched["closed form"])
    first, second = (format_number(max(abs(quantiles["0.01"]), abs(quantiles["0.99"])), 2) for quantiles in both)
    return first, second


def _shown_provenance(provenance: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """(name, short value, full value) of what fits on a page."""
    shown = []
    for name, value in sorted(provenance.items()):
        if isinstance(value, str | int | float):
            full = str(value)
            is_hash = len(full) >= 32 and all(digit in "0123456789abcdef" for digit in full)
            shown.append((name.replace("_", " "), full[:12] if is_hash else full[:60], full))
    return shown


def _remove_other_pages(folder: Path, names: set[str]) -> None:
    if folder.is_dir():
        for entry in os.scandir(folder):
            if entry.name.endswith(".html") and entry.name not in names:
                os.unlink(entry.path)
