"""What a page says of one neuron, in the page's view: numbers of its quadrants, readable examples, and its weights.

From the rows that tables hold of the neuron to what templates fill in, without reading files. Reading belongs to
`layer_pages`, what the position sample says to `distribution`, the picture to `density`, the examples that a script shows to
`packing`. Nothing is computed from activations here beyond what a page shows of its tables.
"""

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from gluscope_assets.core.arrays import offsets_of, ranges
from gluscope_assets.core.pages.distribution import QUANTILES, SampledNeuron, frequency_interval
from gluscope_assets.core.pages.formats import SPACES, MlpIndex, format_number, signed
from gluscope_assets.core.pages.shown_texts import ShownTexts
from gluscope_assets.core.pages.vocabulary import Vocabulary
from gluscope_assets.core.pages.windows import Windows
from gluscope_assets.core.quadrants import ACTIVATIONS, ODD, QUADRANTS, column, oriented_quadrant

STATIC_EXAMPLES = 3
"""Examples of each quadrant that are readable without JavaScript."""
NEAR_BEFORE, NEAR_AFTER = 32, 16
"""Positions around the peak of an example that is readable without JavaScript."""
REST = "‥"
"""Stands for a token that has the rest of the character before it."""
_NUMBERS = ",".join(["%.7g"] * (3 + len(QUANTILES)))


# Quadrants


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
    examples: list["StaticExample"]
    """The strongest by |post|, at most `STATIC_EXAMPLES`."""

    def to_json(self) -> str:
        """Its numbers for the page's script, to 7 digits, which is what float32 holds."""
        fields = [f'"count":{self.count},"sampled":{self.sampled}']
        for activation, values in self.numbers.items():
            numbers = (
                ",".join("null" if value is None else f"{value:.7g}" for value in values)
                if None in values
                else _NUMBERS % tuple(values)
            )
            fields.append(f'"{activation}":[{numbers}]')
        return f"{{{','.join(fields)}}}"


def quadrant_views(
    statistics: Mapping[str, Any], sign: int, sampled: SampledNeuron, examples: Iterator[list["StaticExample"]]
) -> list[QuadrantView]:
    """The quadrants of one neuron, in the order of `QUADRANTS`.

    `statistics` is its row, described and raw; `sign` is what in and post are multiplied by in the page's view, in which
    `sampled` and the `examples` of each quadrant are already.
    """
    routed = statistics["routed"]
    views = []
    of_sample = zip(sampled.counts(), sampled.quantiles(), examples, strict=True)
    for name, (inside, quantiles, strongest) in zip(QUADRANTS, of_sample, strict=True):
        raw = oriented_quadrant(name, sign)
        count = statistics[f"{raw}_count"]
        numbers = {activation: _numbers(statistics, raw, activation, count, sign, quantiles) for activation in ACTIVATIONS}
        interval = frequency_interval(count, routed)
        views.append(QuadrantView(name, count, count / routed if routed else 0.0, interval, inside, numbers, strongest))
    return views


def _numbers(
    statistics: Mapping[str, Any], quadrant: str, activation: str, count: int, sign: int, quantiles: Mapping[str, list[float]]
) -> list[float | None]:
    """`QuadrantView.numbers` of one activation; `quadrant` is the one that the table has, in which `count` positions fall."""
    if not count:
        return [None] * (3 + len(QUANTILES))
    prefix = column(quadrant, activation)
    # Imported tables have no deviations.
    mean, deviation, size = (statistics[f"{prefix}_{name}"] for name in ("mean", "std", "largest"))
    if sign < 0 and activation in ODD:
        mean = -mean
    return [mean, deviation, math.copysign(size, mean), *quantiles.get(activation, [None] * len(QUANTILES))]


# Examples


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


def static_examples(windows: Windows, texts: ShownTexts, vocabulary: Vocabulary) -> Iterator[list[StaticExample]]:
    """The first examples of each list."""
    counts = np.minimum(windows.lists, STATIC_EXAMPLES)
    chosen = ranges(offsets_of(windows.lists)[:-1], counts)
    peak = (windows.position - windows.low)[chosen]
    first, end = np.maximum(peak - NEAR_BEFORE, 0), np.minimum(windows.length[chosen], peak + 1 + NEAR_AFTER)
    tokens = windows.token[ranges(offsets_of(windows.length)[chosen] + first, end - first)]
    shown, has_split = map(vocabulary.piece, tokens.tolist()), vocabulary.decoder.splits(tokens)
    columns = (windows.post[chosen], windows.text[chosen], windows.position[chosen], peak - first, end - first)
    rows = zip(*(values.tolist() for values in columns), strict=True)
    for count in counts.tolist():
        examples = []
        for post, text, position, at, length in islice(rows, count):
            pieces = list(islice(shown, length))
            if has_split:
                split = vocabulary.split_pieces(texts.tokens_of, text)
                pieces = [split.get(here, piece) for here, piece in enumerate(pieces, position - at)]
            left, right, document = _short(pieces[:at]), _short(pieces[at + 1 :]), texts.source_of(text)[0]
            examples.append(
                StaticExample(post, signed(post), left, _line(pieces[at : at + 1]) or REST, right, document, text, position)
            )
        yield examples


def _line(pieces: Sequence[str]) -> str:
    """Pieces on one line."""
    return "".join(pieces).replace("\n", "")


def _short(pieces: Sequence[str]) -> str:
    """Pieces on one line, runs of spaces shortened."""
    line = _line(pieces)
    return SPACES.sub("  ", line) if "   " in line else line


# Weights


def weights_view(weights: Mapping[str, Any], sign: int, vocabulary: Vocabulary) -> dict[str, Any]:
    """The weights of one neuron, from its row of their table, with w_in and w_out multiplied by `sign`."""

    def chips(name: str, factor: int = 1) -> Markup:
        """Made here and not in the template, as the cells of the tables are: there are hundreds of them a page."""
        made = []
        for entry in weights[name] or ():
            token, score = entry["token"], signed(factor * entry["score"], 3)
            made.append(f'<li title="token {token}, {score}">{vocabulary.chip(token)}</li>')
        return Markup("".join(made))

    swapped = sign < 0
    return {
        "class": weights["class"],
        "atypical": weights["atypical"],
        "cosines": [
            ("gate", "in", sign * weights["cos_gate_in"]),
            ("gate", "out", sign * weights["cos_gate_out"]),
            ("in", "out", weights["cos_in_out"]),
        ],
        "promoted": chips("suppressed" if swapped else "promoted", sign),
        "suppressed": chips("promoted" if swapped else "suppressed", sign),
        "gate_positive": chips("gate_positive"),
        "gate_negative": chips("gate_negative"),
        "in_positive": chips("in_negative" if swapped else "in_positive", sign),
        "in_negative": chips("in_positive" if swapped else "in_negative", sign),
    }


def chance_cosines(baselines: Mapping[str, Any], weights: Mapping[str, Any]) -> tuple[str, str] | None:
    """How large 98 of 100 cosines of w_in and w_out of mismatched neurons are at most, and of random directions.

    `baselines` are by MLP, as `core.model.weights` records them for the layer; None if the neuron's MLP has none.
    """
    name = weights["mlp"] if weights["expert"] is None else f"{weights['mlp']}, expert {weights['expert']}"
    mismatched = baselines.get(name, {})
    if "cos_in_out" not in mismatched:
        return None
    both = (mismatched["cos_in_out"], mismatched["closed form"])
    first, second = (format_number(max(abs(quantiles["0.01"]), abs(quantiles["0.99"])), 2) for quantiles in both)
    return first, second


# The layer's page


@dataclass(frozen=True)
class NeuronSummary:
    """What the page of a layer shows of one neuron."""

    neuron: int
    mlp_index: MlpIndex | None
    """None in a layer with one gated MLP, where the neuron's number says it."""
    shares: list[float]
    """[4], the quadrants' shares in the page's view."""
    input_output_class: str
    best: StaticExample | None
    """The example with the largest |post|."""


def best_example(quadrants: Sequence[QuadrantView]) -> StaticExample | None:
    """The example with the largest |post| of all quadrants."""
    strongest = [quadrant.examples[0] for quadrant in quadrants if quadrant.examples]
    return max(strongest, key=lambda example: abs(example.post), default=None)
