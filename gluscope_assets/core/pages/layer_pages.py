"""The pages of one layer: its tables are opened once, read in batches of neurons, and become a page a neuron.

What a page says of a neuron belongs to `neuron_view`, `density` and `packing`; templates and static files lie in `site/`.
Writing pages belongs to `rendering`, what surrounds them to `core.site.site`, checks on the result to `core.site.links`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup

import gluscope_assets
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import read_provenance, require_file, row_groups
from gluscope_assets.core.model.activation import activation_function
from gluscope_assets.core.pages.density import picture_of
from gluscope_assets.core.pages.distribution import SampledNeuron
from gluscope_assets.core.pages.formats import MlpIndex, safe_json
from gluscope_assets.core.pages.layer_source import LayerSource
from gluscope_assets.core.pages.neuron_view import (
    NeuronSummary,
    best_example,
    chance_cosines,
    quadrant_views,
    static_examples,
    weights_view,
)
from gluscope_assets.core.pages.packing import pack_examples
from gluscope_assets.core.pages.shown_texts import ShownTexts
from gluscope_assets.core.pages.templates import environment
from gluscope_assets.core.pages.vocabulary import Vocabulary
from gluscope_assets.core.pages.windows import Kept, RankedExamples, SampleWindows, Windows
from gluscope_assets.core.quadrants import LISTS, QUADRANTS, column
from gluscope_assets.core.tables.examples import ExampleLists
from gluscope_assets.core.tables.statistics import described

DATA = "\0"
"""Stands in the filled template for the data, which are bytes already and most of the page. No text on a page holds it."""
TABLE_NEURONS = 2048
"""A layer with more pages lists them as plain links, without a row of figures each."""

POST_LISTS = tuple((quadrant, "post") for quadrant in QUADRANTS)
"""The lists in the page itself; all others are in its second file."""
OTHER_LISTS = tuple(ranked for ranked in LISTS if ranked[1] != "post")


@dataclass(frozen=True)
class NeuronPage:
    """One neuron's page, not yet written."""

    neuron: int
    files: dict[str, bytes]
    """Contents by name; the names stand beside one another in the layer's folder. The first is the page."""
    summary: NeuronSummary


@dataclass(frozen=True)
class NeuronRows:
    """What the tables of a layer hold of one neuron."""

    statistics: Mapping[str, Any]
    weights: Mapping[str, Any]
    """These two are raw rows, by column."""
    post_lists: Windows
    other_lists: Windows
    """These two are `POST_LISTS` and `OTHER_LISTS` in the page's view, cut to what a page shows."""
    gate: Kept
    in_: Kept
    """These two are [sample], raw; NaN where a position was not routed to the neuron's expert."""


class LayerPages:
    """Makes the pages of one layer of one checkpoint from its tables, which are opened once and read in batches.

    `texts` and `vocabulary` are of the corpus and the tokenizer that `source` names; layers share them. `complete` gets the
    examples of the neurons at hand and gives them with what their table lacks. InputError if a table is missing.
    """

    def __init__(
        self,
        source: LayerSource,
        texts: ShownTexts,
        vocabulary: Vocabulary,
        complete: Callable[[pa.Table], pa.Table] = lambda examples: examples,
    ) -> None:
        self.source, self.neurons = source, source.neurons
        self._texts, self._vocabulary, self._complete = texts, vocabulary, complete
        provenance = read_provenance(source.statistics)
        self._activation = str(provenance["activation"])
        self._function = activation_function(self._activation)
        self._statistics = NeuronTable(source.statistics)
        self._weights = NeuronTable(source.weights)
        self._examples = NeuronTable(source.examples, [column(*ranked) for ranked in LISTS])
        self._sample = NeuronTable(source.sample, ["gate", "in"])
        self._positions = require_file(source.positions)
        self._has_several_mlps = self._statistics.has_several_mlps()
        self._baselines: Any = read_provenance(source.weights).get("random_baseline", {})
        self._special = [] if source.count_special_tokens else sorted(texts.special_token_ids)
        self._template = environment().get_template("neuron.html")
        self._shared: dict[str, Any] = {
            "root": "../../",
            "map": source.site_map,
            "key": source.checkpoint_key,
            "checkpoint": source.site_map.name_of(source.checkpoint_key),
            "layer": source.layer,
            "function": self._function,
            "view": source.site_map.view,
            "provenance": _shown_provenance(provenance),
            "weights_hash": str(provenance.get("weights_hash", "")),
            "special": self._special,
            "version": gluscope_assets.__version__,
        }

    def pages(self, neurons: Iterable[int]) -> Iterator[NeuronPage]:
        """The pages of `neurons` in the tables' order, whether or not the site has them. InputError if the tables lack one."""
        wanted = set(neurons)
        for first, end in self._examples.groups:
            chosen = [neuron for neuron in range(first, end) if neuron in wanted]
            if chosen:
                yield from map(self._page, self._rows(chosen))
                wanted.difference_update(chosen)
        if wanted:
            raise InputError(
                f"{self.source.examples} lacks {len(wanted)} of the neurons asked for, such as {min(wanted)}; "
                "delete it and run gluscope build."
            )

    def index(self, summaries: Iterable[NeuronSummary]) -> bytes:
        """The page of the layer, which lists its neurons' pages."""
        ordered = sorted(summaries, key=lambda summary: summary.neuron)
        template = environment().get_template("layer.html")
        width, table = dict(self.source.site_map.layers)[self.source.layer], len(ordered) <= TABLE_NEURONS
        return template.render(**self._shared, neurons=ordered, width=width, table=table).encode("utf-8", "replace")

    def _rows(self, neurons: Sequence[int]) -> Iterator[NeuronRows]:
        """What the tables hold of `neurons`, ascending and stored together."""
        # From the first that is asked for: a server asks for one.
        first, end = neurons[0], neurons[-1] + 1
        statistics = described(self._statistics.read(first, end)).to_pylist()
        weights = self._weights.read(first, end).to_pylist()
        sample, examples = self._sample.read(first, end), self._complete(self._examples.read(first, end))
        lists = {ranked: ExampleLists.from_arrow(examples[column(*ranked)]) for ranked in LISTS}
        signs = np.array([self._sign(row) for row in weights])
        gates, ins = (_rows_of(sample[name]) for name in ("gate", "in"))
        post_lists, other_lists = (RankedExamples(lists, names, signs) for names in (POST_LISTS, OTHER_LISTS))
        for row in (neuron - first for neuron in neurons):
            yield NeuronRows(statistics[row], weights[row], post_lists.of(row), other_lists.of(row), gates[row], ins[row])

    def _sign(self, weights: Mapping[str, Any]) -> int:
        """What in and post of a neuron are multiplied by on its page."""
        return int(weights["orientation"]) if self.source.site_map.view == "oriented" else 1

    def _page(self, rows: NeuronRows) -> NeuronPage:
        """One neuron's page: the template filled with what is said of it, and its examples packed for the page's script."""
        statistics, sign = rows.statistics, self._sign(rows.weights)
        neuron: int = statistics["neuron"]
        gate, in_ = rows.gate.astype(np.float32), rows.in_.astype(np.float32)
        sampled = SampledNeuron.from_gate_and_in(gate, in_, sign, self._function)
        sampled_lists, quantiles = self._sampled_lists(sampled, rows.gate.dtype)
        post_examples = pack_examples([rows.post_lists], self._texts, self._vocabulary)
        other_examples = pack_examples([rows.other_lists, sampled_lists], self._texts, self._vocabulary)
        readable = static_examples(rows.post_lists, self._texts, self._vocabulary)
        quadrants = quadrant_views(statistics, sign, sampled, readable)
        mlp_index = MlpIndex(*(statistics[name] for name in ("mlp", "expert", "index"))) if self._has_several_mlps else None
        facts = {name: statistics[name] for name in ("positions", "routed", "zero")}
        orientation, at = int(rows.weights["orientation"]), bisect_left(self.neurons, neuron)
        text = self._template.render(
            **self._shared,
            **facts,
            neuron=neuron,
            previous=self.neurons[at - 1] if at else None,
            next=next((after for after in self.neurons[at : at + 2] if after > neuron), None),
            orientation=orientation,
            sign=sign,
            mlp_index=mlp_index,
            sampled=len(sampled.index),
            picture=picture_of(sampled.density()),
            quadrants=quadrants,
            weights=weights_view(rows.weights, sign, self._vocabulary),
            chance=chance_cosines(self._baselines, rows.weights),
            data=DATA,
        )
        before, after = text.encode("utf-8", "replace").split(DATA.encode())
        facts = {"activation": self._activation, "special": self._special, "orientation": orientation, **facts}
        numbers = ",".join([quadrant.to_json() for quadrant in quadrants])
        data = post_examples.to_json(facts, f',"quadrants":[{numbers}]')
        name = safe_json(f"{self.source.checkpoint_key}/{self.source.layer}/{neuron}")
        script = [f"gluscope.provide({name},".encode(), other_examples.to_json({"quantiles": quantiles}), b");\n"]
        files = {f"{neuron}.html": b"".join([before, data, after]), f"{neuron}.js": b"".join(script)}
        shares = [quadrant.share for quadrant in quadrants]
        summary = NeuronSummary(neuron, mlp_index, shares, rows.weights["class"], best_example(quadrants))
        return NeuronPage(neuron, files, summary)

    def _sampled_lists(self, sampled: SampledNeuron, dtype: np.dtype[Any]) -> tuple[Windows, list[list[float]]]:
        """Random examples of each quadrant, then its examples by quantile, and of each of the latter the quantile."""
        quadrants = range(len(QUADRANTS))
        quantiles = [sampled.quantile_examples(quadrant) for quadrant in quadrants]
        lists = [*(sampled.random_examples(quadrant) for quadrant in quadrants), *(at for at, _ in quantiles)]
        at = np.concatenate(lists)
        # In the type that they are stored in, which holds them all.
        gate, in_ = sampled.values[:2, at].astype(dtype)
        windows = self._sample_windows.windows([*map(len, lists)], sampled.index[at], gate, in_, sampled.values[3, at])
        return windows, [shown for _, shown in quantiles]

    @cached_property
    def _sample_windows(self) -> SampleWindows:
        positions = pq.ParquetFile(self._positions).read()
        text, position = (positions[name].to_numpy().astype(np.int64) for name in ("text", "position"))
        return self._texts.around(text, position)


class NeuronTable:
    """A table with a row a neuron, in the order of neurons, of which some rows are read at a time."""

    def __init__(self, path: Path, columns: Sequence[str] | None = None) -> None:
        self.path = path
        self._file = pq.ParquetFile(require_file(path), memory_map=True)
        self._columns = None if columns is None else ["neuron", *columns]
        self.groups = row_groups(self._file.metadata)
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
        """Whether the layer has more than one gated MLP, so that a neuron's number is not its index in one."""
        table = self._file.read(columns=["neuron", "expert", "index"])
        return table["expert"].null_count < table.num_rows or not table["index"].equals(table["neuron"])


def _rows_of(column: pa.ChunkedArray) -> Kept:
    """[neurons, sample] of a column of lists, NaN for null."""
    cells = column.combine_chunks()
    values: Kept = cells.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(cells), -1)


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
