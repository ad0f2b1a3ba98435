"""What must hold of a quadrant aggregate, whatever model and corpus it is of. Each check gives sentences, none if it holds.

What belongs here: a function for each check, whose name and first line are shown to whoever reads the result. Checks look at
the files as a reader would; they do not repeat the collection, which tests compare with brute force. torch is imported inside
functions, because asset definitions name the checks.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gluscope_assets.core.arrays import narrow
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.files import read_provenance
from gluscope_assets.core.model.activation import activation_function
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets.core.paths import STATISTICS_FILE
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, column, signs_of
from gluscope_assets.core.tables import schema
from gluscope_assets.core.tables.aggregate import NO_EXPERT, NO_TOKEN, Aggregate, read_aggregate

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""The spacing of a dtype's numbers, relative."""

SUM_ROUNDING = 1e-9
"""Relative slack of a sum against count times the largest value."""


Misfit = tuple[npt.NDArray[np.bool_], str, str]
"""Which neurons (axis 0) are wrong, perhaps none of them, the column where, and what is wrong with it."""


@dataclass(frozen=True)
class Subject:
    """An aggregate with what it is verified against."""

    aggregate: Aggregate
    corpus: TokenizedCorpus
    options: CollectionOptions
    dtype: str
    act: "Callable[[Tensor], Tensor]"

    def lists(self) -> Iterator[tuple[int, str, str, npt.NDArray[np.bool_]]]:
        """Each list's number, quadrant, activation, and which of its entries [neurons, K] hold an example."""
        for number, (quadrant, activation) in enumerate(LISTS):
            yield number, quadrant, activation, self.aggregate.text[number] >= 0

    def peaks(self, number: int) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
        """Gate and in at the peaks of a list, [neurons, K] each, as its windows hold them."""
        peak = self.aggregate.window_before
        return self.aggregate.window_gate[number][..., peak], self.aggregate.window_in[number][..., peak]


def verify_aggregate(folder: Path, corpus: TokenizedCorpus, options: CollectionOptions) -> dict[str, list[str]]:
    """The problems of the aggregate in `folder`, by the name of each of CHECKS.

    InputError if the aggregate cannot be read or its activation function has no name.
    """
    footer = read_provenance(folder / STATISTICS_FILE)
    act = activation_function(str(footer["activation"])).compute
    subject = Subject(read_aggregate(folder), corpus, options, str(footer["dtype"]), act)
    return {check.__name__: list(_sentences(subject.aggregate.layer, check(subject))) for check in CHECKS}


def _sentences(layer: int, misfits: Iterable[Misfit]) -> Iterator[str]:
    """One for each misfit of any neuron."""
    for wrong, where, what in misfits:
        neurons = np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))
        if len(neurons):
            shown = ", ".join(map(str, neurons[:5])) + (", …" if len(neurons) > 5 else "")
            yield f"Layer {layer}, {where}: {what} (neurons {shown})."


def counts_add_up(subject: Subject) -> Iterator[Misfit]:
    """In every neuron the four counts and the zeros equal the counted tokens."""
    aggregate, corpus = subject.aggregate, subject.corpus
    counted = corpus.n_tokens if subject.options.count_special_tokens else corpus.n_counted
    wrong = aggregate.count.sum(axis=0) + aggregate.zero != aggregate.routed
    yield wrong, "counts", "the four counts and the zeros do not add up to the routed positions"
    sees_all = aggregate.expert == NO_EXPERT
    wrong = (aggregate.routed > counted) | (sees_all & (aggregate.routed != counted))
    yield wrong, "routed", f"the routed positions do not fit {counted} counted tokens"


def signs_fit_quadrants(subject: Subject) -> Iterator[Misfit]:
    """Every statistic and every example has the signs of its quadrant."""
    aggregate = subject.aggregate
    for q, quadrant in enumerate(QUADRANTS):
        held = aggregate.count[q] > 0
        for a, sign in enumerate(signs_of(quadrant)):
            total = aggregate.sum[q, a]
            wrong = held & (total <= 0 if sign == "+" else total >= 0)
            yield wrong, column(quadrant, ACTIVATIONS[a]), "the sum has the wrong sign"
    for number, quadrant, activation, held in subject.lists():
        for values, sign in zip(subject.peaks(number), signs_of(quadrant), strict=True):
            wrong = held & (values <= 0 if sign == "+" else values >= 0)
            yield wrong, column(quadrant, activation), "an example's peak lies in another quadrant"


def lists_are_ordered(subject: Subject) -> Iterator[Misfit]:
    """Example lists are ordered and hold a text at most once."""
    aggregate = subject.aggregate
    for number, quadrant, activation, held in subject.lists():
        where = column(quadrant, activation)
        yield held[:, 1:] & ~held[:, :-1], where, "an empty entry stands before an example"
        size = np.abs(aggregate.value[number])
        tie = np.abs(aggregate.post[number]) if activation == "act" else np.zeros_like(size)
        text = aggregate.text[number]
        larger = (size[:, :-1] > size[:, 1:]) | (
            (size[:, :-1] == size[:, 1:])
            & ((tie[:, :-1] > tie[:, 1:]) | ((tie[:, :-1] == tie[:, 1:]) & (text[:, :-1] < text[:, 1:])))
        )
        yield held[:, 1:] & ~larger, where, "examples are out of order"
        ordered = np.sort(text, axis=1)
        wrong = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        yield wrong, where, "a text stands in the list twice"
        wrong = held.any(axis=1) != (aggregate.count[QUADRANTS.index(quadrant)] > 0)
        yield wrong, where, "the list is empty and the quadrant is not, or the other way round"


def sums_fit_largest(subject: Subject) -> Iterator[Misfit]:
    """No |sum| exceeds count × largest |value|, and sums of squares fit sums."""
    aggregate = subject.aggregate
    for q, quadrant in enumerate(QUADRANTS):
        held = aggregate.count[q] > 0
        count = aggregate.count[q].astype(np.float64)
        for a, activation in enumerate(ACTIVATIONS):
            largest = np.where(held, aggregate.largest[q, a], 0).astype(np.float64)
            slack = SUM_ROUNDING * count * largest
            total, squares = aggregate.sum[q, a], aggregate.sum_of_squares[q, a]
            wrong = np.abs(total) > count * largest + slack
            yield wrong, column(quadrant, activation), "the sum does not fit count and largest value"
            slack *= largest
            wrong = (squares > count * largest**2 + slack) | (squares * count < total**2 - slack * count)
            yield wrong, column(quadrant, activation), "the sum of squares does not fit sum and extremes"
            if (quadrant, activation) in LISTS:
                first = np.abs(aggregate.value[LISTS.index((quadrant, activation)), :, 0])
                wrong = first != largest.astype(np.float32)
                yield wrong, column(quadrant, activation), "the first example is not the largest value"


def nothing_is_nan(subject: Subject) -> Iterator[Misfit]:
    """No number is NaN or infinite, and only empty quadrants have no statistics."""
    aggregate = subject.aggregate
    held = aggregate.count > 0
    for name in dict.fromkeys(stored.statistic for stored in schema.STATISTICS.stored if stored.activation):
        finite = np.isfinite(getattr(aggregate, name)).all(axis=1)
        yield (held & ~finite).T, name, "a statistic is NaN, infinite or missing"
    for name in ("value", "post"):
        finite = np.isfinite(getattr(aggregate, name))
        yield ~finite.swapaxes(0, 1), name, "an example is NaN or infinite"
    # What an expert did not see is NaN, but never at a peak.
    routed_elsewhere = (aggregate.expert != NO_EXPERT)[:, None]
    peak = aggregate.window_before
    for name in ("window_gate", "window_in"):
        cells = getattr(aggregate, name).swapaxes(0, 1)
        finite = np.isfinite(cells) | (np.isnan(cells) & routed_elsewhere[..., None, None])
        finite[..., peak] &= np.isfinite(cells[..., peak])
        yield ~finite, name, "an example is NaN or infinite"
    for name in ("sample_gate", "sample_in"):
        cells = getattr(aggregate, name).T
        finite = np.isfinite(cells) | (np.isnan(cells) & routed_elsewhere)
        yield ~finite, name, "a sampled value is NaN or infinite"


def post_is_act_times_in(subject: Subject) -> Iterator[Misfit]:
    """post = act(gate) · in at every peak."""
    import torch

    for number, quadrant, activation, held in subject.lists():
        gate_at_peak, in_at_peak = (values.astype(np.float64) for values in subject.peaks(number))
        gate, size_of_in = torch.from_numpy(gate_at_peak), np.abs(in_at_peak)
        # The window's gate and in are rounded: post may differ by as much as act does over the rounding of gate.
        spacing = max(ROUNDING["float16"], ROUNDING[subject.dtype])
        step = gate.abs() * spacing + 2.0**-24
        act = subject.act(gate).numpy()
        swing = np.maximum(np.abs(subject.act(gate + step).numpy() - act), np.abs(subject.act(gate - step).numpy() - act))
        expected = act * in_at_peak
        # Activations of float32 models are computed in float32, whose tails end near 1e-7.
        slack = swing * size_of_in + 4 * spacing * np.abs(expected) + (np.abs(act) + 1e-6) * 2.0**-23 + 1e-6 * size_of_in
        wrong = held & (np.abs(subject.aggregate.post[number] - expected) > slack)
        yield wrong, column(quadrant, activation), "post is not act(gate) · in at a peak"


def windows_hold_their_peak(subject: Subject) -> Iterator[Misfit]:
    """Each window's value at the peak equals the list's, to within the rounding of fp16."""
    import torch

    aggregate, corpus, peak = subject.aggregate, subject.corpus, subject.aggregate.window_before
    for number, quadrant, activation, held in subject.lists():
        where = column(quadrant, activation)
        if activation in ("gate", "in"):
            stored = subject.peaks(number)[ACTIVATIONS.index(activation)]
            rounded = narrow(torch.from_numpy(aggregate.value[number]))[0].numpy()
            yield held & (stored != rounded), where, "the window's peak is not the list's value"
        if activation == "post":
            wrong = held & (aggregate.value[number] != aggregate.post[number])
            yield wrong, where, "the list's value is not its post"
        text = aggregate.text[number].clip(0)
        length = np.diff(corpus.offsets)[text.clip(0, corpus.n_texts - 1)]
        cell = aggregate.position[number][..., None] + np.arange(aggregate.window_token.shape[-1]) - peak
        within = (cell >= 0) & (cell < length[..., None]) & held[..., None]
        token = np.where(within, corpus.offsets[text.clip(0, corpus.n_texts - 1)][..., None] + cell, 0)
        expected = np.where(within, corpus.token[token], NO_TOKEN)
        wrong = (text >= corpus.n_texts)[..., None] | (aggregate.window_token[number] != expected)
        yield wrong, where, "a window's tokens are not its text's"


CHECKS = (
    counts_add_up,
    signs_fit_quadrants,
    lists_are_ordered,
    sums_fit_largest,
    nothing_is_nan,
    post_is_act_times_in,
    windows_hold_their_peak,
)
