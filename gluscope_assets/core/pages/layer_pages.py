"""Neuron pages: the tables of one layer to a page a neuron.

Templates and static files lie in `site/`. Packing of examples belongs to `page_data`, what surrounds the pages to `site`,
checks on the result to `links`. Nothing is computed from activations here beyond what a page shows of its tables.
"""

import base64
import html
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup

import gluscope_assets
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import read_provenance, require_file
from gluscope_assets.core.model.activation import activation_function
from gluscope_assets.core.pages.density import picture_of
from gluscope_assets.core.pages.distribution import QUANTILES, SampledNeuron, frequency_interval
from gluscope_assets.core.pages.formats import Place, format_number, safe_json, signed
from gluscope_assets.core.pages.packing import (
    ExampleColumn,
    Kept,
    PackedExamples,
    RankedExamples,
    SampleWindows,
    ShownTexts,
    Vocabulary,
    Windows,
    pack_examples,
    ranges,
)
from gluscope_assets.core.pages.site_map import SiteMap
from gluscope_assets.core.pages.templates import environment
from gluscope_assets.core.paths import EXAMPLES_FILE, POSITIONS_FILE, SAMPLE_FILE, STATISTICS_FILE
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, column, oriented_quadrant

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

STATIC_EXAMPLES = 3
"""Examples of each quadrant that are readable without JavaScript."""
NEAR_BEFORE, NEAR_AFTER = 32, 16
"""Positions around the peak of an example that is readable without JavaScript."""
DATA = "\0"
"""Stands in the filled template for the data, which are bytes already and most of the page. No text on a page holds it."""
REST = "‥"
"""Stands for a token that has the rest of the character before it."""
_SPACES = re.compile(" {3,}")

TABLE_NEURONS = 2048
"""A layer with more pages lists them as plain links, without a row of figures each."""


@dataclass(frozen=True)
class QuadrantView:
    """One quadrant of one neuron as its page shows it."""

    name: str
    count: int
    share: float
    """Of the positions routed to the neuron's expert; of all for a neuron that sees all."""
    interval: tuple[float, float] | None
    """The share's 95 % interval, positions taken as independent draws."""
    sampled: int
    """Positions of the sample that fall in it."""
    numbers: dict[str, list[float | None]]
    """For each activation its mean, standard deviation, value with the largest size, and `QUANTILES` of the sample."""
    examples: list["StaticExample"] = field(default_factory=list)


class StaticExample(NamedTuple):
    """One line of text with its peak, for readers without JavaScript."""

    post: float
    value: str
    """`post` as the page shows it."""
    left: str
    """Runs of spaces are shortened here and in `right`."""
    peak: str
    right: str
    document: str
    text: int
    position: int

    def row(self, number: int) -> Markup:
        """The example as the item `number` of a list."""
        left, peak, right, document = map(html.escape, (self.left, self.peak, self.right, self.document))
        return Markup(
            f'<li class="example"><span class="rank">{number}</span><span class="value">{self.value}</span><span class="line">'
            f'<span class="left"><bdi>{left}</bdi></span>'
            f'<span class="right"><mark>{peak}</mark><bdi>{right}</bdi></span></span>'
            f'<span class="source" title="{document}, text {self.text}, position {self.position}"><bdi>{document}</bdi> '
            f"<span>{self.text}:{self.position}</span></span></li>"
        )


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


FIRST_LISTS = tuple((quadrant, "post") for quadrant in QUADRANTS)
"""The lists in the page itself; all others are in its second file."""
OTHER_LISTS = tuple(ranked for ranked in LISTS if ranked[1] != "post")


class LayerPages:
    """Makes the pages of one layer of one checkpoint from its tables, which are opened once and read in parts.

    `aggregate` is the layer's folder of an aggregate, `weights` its file of weights, `activation` the name of σ. `complete`
    gets the examples of the neurons at hand and gives them with what their table lacks.
    """

    def __init__(
        self,
        site_map: SiteMap,
        checkpoint_key: str,
        layer: int,
        aggregate: Path,
        weights: Path,
        texts: ShownTexts,
        vocabulary: Vocabulary,
        activation: str,
        count_special_tokens: bool = False,
        complete: Callable[[pa.Table], pa.Table] = lambda examples: examples,
    ) -> None:
        self._complete = complete
        self.site_map, self.checkpoint_key, self.layer = site_map, checkpoint_key, layer
        self.texts, self.view, self.activation = texts, site_map.view, activation
        self.function = activation_function(activation)
        self.neurons = site_map.neurons(checkpoint_key, layer)
        """Those that get a page when the site is built. Any other can be asked for."""
        lists = [column(quadrant, ranked) for quadrant, ranked in LISTS]
        self._statistics = NeuronTable(aggregate / STATISTICS_FILE)
        self._weights = NeuronTable(weights)
        self._examples = NeuronTable(aggregate / EXAMPLES_FILE, lists)
        self._sample = NeuronTable(aggregate / SAMPLE_FILE, ["gate", "in"])
        self._positions = require_file(aggregate / POSITIONS_FILE)
        self._several = self._statistics.has_several_mlps()
        self._baselines = read_provenance(weights).get("random_baseline", {})
        self._vocabulary = vocabulary
        self._template = environment().get_template("neuron.html")
        provenance = read_provenance(aggregate / STATISTICS_FILE)
        self._shared = {
            "root": "../../",
            "map": site_map,
            "key": checkpoint_key,
            "checkpoint": site_map.name_of(checkpoint_key),
            "layer": layer,
            "function": self.function,
            "view": site_map.view,
            "provenance": _shown_provenance(provenance),
            "weights_hash": str(provenance.get("weights_hash", "")),
            "special": [] if count_special_tokens else sorted(texts.special_token_ids),
            "version": gluscope_assets.__version__,
        }

    @cached_property
    def _sample_windows(self) -> SampleWindows:
        positions = pq.ParquetFile(self._positions).read()
        text, position = (positions[name].to_numpy().astype(np.int64) for name in ("text", "position"))
        return self.texts.around(text, position)

    def pages(self, neurons: Iterable[int]) -> Iterator[NeuronPage]:
        """The pages of `neurons` in the tables' order. InputError if the tables lack one."""
        wanted = set(neurons)
        for first, end in self._examples.groups:
            chosen = [neuron for neuron in range(first, end) if neuron in wanted]
            if not chosen:
                continue
            # From the first that is asked for: a server asks for one.
            first, end = chosen[0], chosen[-1] + 1
            statistics, weights = (table.read(first, end).to_pylist() for table in (self._statistics, self._weights))
            sample, examples = self._sample.read(first, end), self._complete(self._examples.read(first, end))
            lists = {ranked: ExampleColumn.from_arrow(examples[column(*ranked)].combine_chunks()) for ranked in LISTS}
            signs = np.array([self._sign(row) for row in weights])
            gates, ins = (_rows_of(sample[name]) for name in ("gate", "in"))
            own, others = (RankedExamples(lists, names, signs) for names in (FIRST_LISTS, OTHER_LISTS))
            for row in (neuron - first for neuron in chosen):
                yield self._page(statistics[row], weights[row], own.of(row), others.of(row), gates[row], ins[row])
            wanted.difference_update(chosen)
        if wanted:
            raise InputError(
                f"{self._examples.path} lacks {len(wanted)} of the neurons asked for, such as {min(wanted)}; "
                "delete it and run gluscope build."
            )

    def _sign(self, weights: Mapping[str, Any]) -> int:
        """What in and post of a neuron are multiplied by on its page."""
        return int(weights["orientation"]) if self.view == "oriented" else 1

    def _page(
        self,
        statistics: dict[str, Any],
        weights: dict[str, Any],
        own: Windows,
        others: Windows,
        gate: Kept,
        in_: Kept,
    ) -> NeuronPage:
        neuron, orientation, sign = statistics["neuron"], int(weights["orientation"]), self._sign(weights)
        quadrant_of = {name: oriented_quadrant(name, sign) for name in QUADRANTS}
        sampled = SampledNeuron.from_gate_and_in(gate.astype(np.float32), in_.astype(np.float32), sign, self.function)
        first = pack_examples([own], self.texts, self._vocabulary)
        chosen = [sampled.random_examples(number) for number in range(len(QUADRANTS))]
        quantiles = [sampled.quantile_examples(number) for number in range(len(QUADRANTS))]
        chosen += [at for at, _ in quantiles]
        at = np.concatenate(chosen)
        # In the type that they are stored in, which holds them all.
        gates, ins = sampled.values[:2, at].astype(gate.dtype)
        random = self._sample_windows.windows([*map(len, chosen)], sampled.place[at], gates, ins, sampled.values[3, at])
        rest = pack_examples([others, random], self.texts, self._vocabulary)
        quadrants = _quadrants(statistics, quadrant_of, sign, sampled)
        for quadrant, examples in zip(quadrants, _static_examples(first, self.texts, self._vocabulary), strict=True):
            quadrant.examples.extend(examples)
        place = bisect_left(self.neurons, neuron)
        text = self._template.render(
            **self._shared,
            neuron=neuron,
            previous=self.neurons[place - 1] if place else None,
            next=next((after for after in self.neurons[place : place + 2] if after > neuron), None),
            orientation=orientation,
            sign=sign,
            place=_place(statistics, self._several),
            positions=statistics["positions"],
            routed=statistics["routed"],
            zero=statistics["zero"],
            sampled=len(sampled.place),
            picture=picture_of(sampled.density()),
            quadrants=quadrants,
            weights=_weights(weights, sign, self._vocabulary),
            chance=_chance(self._baselines, weights),
            data=DATA,
        )
        facts = {
            "activation": self.activation,
            "special": self._shared["special"],
            "orientation": orientation,
            "positions": statistics["positions"],
            "routed": statistics["routed"],
            "zero": statistics["zero"],
        }
        before, after = text.encode("utf-8", "replace").split(DATA.encode())
        name = f"{self.checkpoint_key}/{self.layer}/{neuron}"
        data = _with_examples({"quantiles": [found for _, found in quantiles]}, rest)
        files = {
            f"{neuron}.html": b"".join([before, _with_examples(facts, first, quadrants), after]),
            f"{neuron}.js": b"".join([f"gluscope.provide({safe_json(name)},".encode(), data, b");\n"]),
        }
        shares = [quadrant.share for quadrant in quadrants]
        summary = Summary(neuron, _place(statistics, self._several), shares, weights["class"], _best(quadrants))
        return NeuronPage(neuron, files, summary)

    def index(self, summaries: Iterable[Summary]) -> bytes:
        """The page of the layer, which lists its neurons' pages."""
        ordered = sorted(summaries, key=lambda summary: summary.neuron)
        template = environment().get_template("layer.html")
        width, table = dict(self.site_map.layers)[self.layer], len(ordered) <= TABLE_NEURONS
        return template.render(**self._shared, neurons=ordered, width=width, table=table).encode("utf-8", "replace")


class NeuronTable:
    """A table with a row a neuron, in the order of neurons, read in parts."""

    def __init__(self, path: Path, columns: Sequence[str] | None = None) -> None:
        self.path = path
        self._file = pq.ParquetFile(require_file(path), memory_map=True)
        self._columns = None if columns is None else ["neuron", *columns]
        metadata = self._file.metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        ends = np.cumsum(rows, dtype=int).tolist()
        self.groups: list[tuple[int, int]] = list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []
        """[first, end) of the neurons that are stored together."""

    def read(self, first: int, end: int) -> pa.Table:
        """The rows of the neurons [first, end). InputError if the rows are not in the order of neurons."""
        groups = [number for number, (low, high) in enumerate(self.groups) if low < end and high > first]
        table = self._file.read_row_groups(groups, columns=self._columns)
        table = table.slice(first - self.groups[groups[0]][0] if groups else 0, end - first)
        if table["neuron"].to_pylist() != list(range(first, end)):
            raise InputError(f"{self.path} lacks neurons {first} to {end - 1} in this order; delete it and run gluscope build.")
        return table

    def has_several_mlps(self) -> bool:
        """Whether the layer has more than one gated MLP, so that a neuron's number does not say its place."""
        table = self._file.read(columns=["neuron", "expert", "index"])
        return table["expert"].null_count < table.num_rows or not table["index"].equals(table["neuron"])


def _rows_of(column: pa.ChunkedArray) -> Kept:
    """[neurons, sample] of a column of lists, NaN for null."""
    cells = column.combine_chunks()
    values: Kept = cells.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(cells), -1)


def _with_examples(data: Mapping[str, Any], examples: PackedExamples, quadrants: Sequence[QuadrantView] = ()) -> bytes:
    """JSON of `data`, quadrants and examples for a script. The latter two are numbers and base64 and need no escapes."""
    head = safe_json({**data, "lists": examples.lists, "sizes": examples.sizes})
    known = f',"quadrants":[{",".join(map(_json_of, quadrants))}]' if quadrants else ""
    return b"".join([f'{head[:-1]}{known},"packed":"'.encode(), base64.b64encode(examples.packed), b'"}'])


_NUMBERS = ",".join(["%.7g"] * (3 + len(QUANTILES)))


def _json_of(quadrant: QuadrantView) -> str:
    """A quadrant's numbers as JSON, to 7 digits, which is what float32 holds."""
    fields = [f'"count":{quadrant.count},"sampled":{quadrant.sampled}']
    for activation, values in quadrant.numbers.items():
        numbers = (
            ",".join("null" if value is None else f"{value:.7g}" for value in values)
            if None in values
            else _NUMBERS % tuple(values)
        )
        fields.append(f'"{activation}":[{numbers}]')
    return f"{{{','.join(fields)}}}"


def _quadrants(row: Mapping[str, Any], quadrant_of: Mapping[str, str], sign: int, sampled: SampledNeuron) -> list[QuadrantView]:
    """The quadrants of one neuron in the page's view."""
    views = []
    for name, inside, quantiles in zip(QUADRANTS, sampled.counts(), sampled.quantiles(), strict=True):
        raw = quadrant_of[name]
        count = row[f"{raw}_count"]
        numbers: dict[str, list[float | None]] = {}
        for activation in ACTIVATIONS:
            prefix = column(raw, activation)
            if not count:
                numbers[activation] = [None] * (3 + len(QUANTILES))
                continue
            mean, size = row[f"{prefix}_sum"] / count, row[f"{prefix}_largest"]
            # Imported tables have no squares.
            squares = row[f"{prefix}_sum_of_squares"]
            deviation = None if squares is None else math.sqrt(max(squares / count - mean * mean, 0.0))
            if sign < 0 and activation in ("in", "post"):
                mean = -mean
            known = quantiles.get(activation, [None] * len(QUANTILES))
            numbers[activation] = [mean, deviation, math.copysign(size, mean), *known]
        share = count / row["routed"] if row["routed"] else 0.0
        views.append(QuadrantView(name, count, share, frequency_interval(count, row["routed"]), inside, numbers))
    return views


def _place(row: Mapping[str, Any], several: bool) -> Place | None:
    """Where a neuron stands in a layer with several gated MLPs; None in a layer with one, where its number says it."""
    return Place(row["mlp"], row["expert"], row["index"]) if several else None


def _static_examples(packed: PackedExamples, texts: ShownTexts, vocabulary: Vocabulary) -> Iterator[list[StaticExample]]:
    """The first examples of each of `FIRST_LISTS`."""
    heads = np.cumsum([0, *packed.lists[:-1]]).tolist()
    counts = [min(count, STATIC_EXAMPLES) for count in packed.lists]
    chosen = np.array([head + place for head, count in zip(heads, counts, strict=True) for place in range(count)], dtype=int)
    peak = packed.peak[chosen]
    first, end = np.maximum(packed.first[chosen], peak - NEAR_BEFORE), np.minimum(packed.end[chosen], peak + 1 + NEAR_AFTER)
    shown, ends = packed.shown(ranges(first, end - first), vocabulary), np.cumsum(end - first)
    columns = (packed.post[chosen], packed.text[chosen], packed.position[chosen], ends - (end - peak), ends)
    rows = zip(*(values.tolist() for values in columns), strict=True)
    low = 0
    for count in counts:
        examples = []
        for post, text, position, at, high in islice(rows, count):
            examples.append(
                StaticExample(
                    post=post,
                    value=signed(post),
                    left=_short(shown[low:at]),
                    peak=_line(shown[at : at + 1]) or REST,
                    right=_short(shown[at + 1 : high]),
                    document=texts.source_of(text)[0],
                    text=text,
                    position=position,
                )
            )
            low = high
        yield examples


def _line(pieces: Sequence[str]) -> str:
    """Pieces on one line."""
    return "".join(pieces).replace("\n", "")


def _short(pieces: Sequence[str]) -> str:
    """Pieces on one line, runs of spaces shortened."""
    line = _line(pieces)
    return _SPACES.sub("  ", line) if "   " in line else line


def _best(quadrants: Sequence[QuadrantView]) -> StaticExample | None:
    """The example with the largest |post| of all quadrants."""
    found = [quadrant.examples[0] for quadrant in quadrants if quadrant.examples]
    return max(found, key=lambda example: abs(example.post), default=None)


def _weights(row: Mapping[str, Any], sign: int, vocabulary: Vocabulary) -> dict[str, Any]:
    """The weights' view of one neuron in the page's view: w_in and w_out multiplied by `sign`."""

    def chips(name: str, factor: int = 1) -> Markup:
        """Made here and not in the template, as the cells of the tables are: there are hundreds of them a page."""
        made = []
        for entry in row[name] or ():
            token, score = entry["token"], signed(factor * entry["score"], 3)
            made.append(f'<li title="token {token}, {score}">{vocabulary.chip(token)}</li>')
        return Markup("".join(made))

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


def _shown_provenance(provenance: Mapping[str, object]) -> Markup:
    """What of the provenance fits on a page, as HTML: it is the same on all pages of a layer."""
    shown = []
    for name, value in sorted(provenance.items()):
        if isinstance(value, str | int | float):
            full = str(value)
            is_hash = len(full) >= 32 and all(digit in "0123456789abcdef" for digit in full)
            pair = Markup('<div><dt>{}</dt><dd title="{}">{}</dd></div>')
            shown.append(pair.format(name.replace("_", " "), full, full[:12] if is_hash else full[:60]))
    return Markup("").join(shown)
