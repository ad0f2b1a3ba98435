"""What a page shows of a neuron's examples: its ranked lists in the page's view, and the texts around sampled positions.

Both become `Windows`, which `packing` packs. Which examples a list holds was decided when the tables were made
(`core.tables.ranking`), and which sampled positions a page shows is decided by `distribution`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gluscope_assets.core.arrays import Floats, Integers, ranges
from gluscope_assets.core.quadrants import ODD, oriented_quadrant
from gluscope_assets.core.tables.examples import ExampleLists

Kept = npt.NDArray[np.float16] | npt.NDArray[np.float32]
"""Gate or in of the positions of windows and of the sample, as tables keep them."""


MOST_EXAMPLES = 16
"""Examples of a list that a page shows; a study may keep more."""
MOST_BEFORE, MOST_AFTER = 47, 16
"""Positions of a window that a page shows before and after the peak; a study may keep more."""
SAMPLE_BEFORE, SAMPLE_AFTER = 31, 12
"""Positions that a page shows around a sampled one, of which it has the text alone."""

TokensOf = Callable[[int], npt.NDArray[np.int32]]
"""Gives the tokens of a text."""


@dataclass(frozen=True)
class Windows:
    """Lists of examples of one neuron, with the positions around their peaks."""

    lists: list[int]
    """Examples in each list."""
    value: Floats
    post: Floats
    text: Integers
    position: Integers
    low: Integers
    """These five are [examples], list by list; `low` is the first position of the window."""
    length: Integers
    """[examples], positions of the window; in the arrays below, [positions], windows follow one another."""
    token: npt.NDArray[np.int32]
    gate: Kept
    """NaN where there is no value: the position was not routed to the neuron's expert, or its values are not kept."""
    in_: Kept
    valued: Integers | None
    """Where gate and in are not NaN, ascending; None if that is everywhere."""


class RankedExamples:
    """Lists of a batch of neurons as their pages show them: cut to what a page shows, oriented, by neuron, then list."""

    def __init__(
        self, columns: Mapping[tuple[str, str], ExampleLists], names: Sequence[tuple[str, str]], signs: Integers
    ) -> None:
        """The lists `names`, (quadrant, activation), of neurons whose in and post are multiplied by `signs` [neurons].

        With a quadrant, `names` and `columns` hold the one with the other sign of in.
        """
        # All columns are laid one after the other; what is shown is gathered from them at once.
        stored, lists = [columns[name] for name in names], np.arange(len(names))

        def joined(name: str) -> npt.NDArray[Any]:
            return np.concatenate([column[name] for column in stored])

        # [lists], examples and cells in the columns before.
        examples_before = np.cumsum([0, *(column.first[-1] for column in stored[:-1])])
        cells_before = np.cumsum([0, *(column.window[-1] for column in stored[:-1])])
        self._turned = signs < 0
        swapped = np.array([names.index((oriented_quadrant(quadrant, -1), ranked)) for quadrant, ranked in names])
        # [neurons, lists], the column that holds what a page shows as a list.
        column_of = np.where(self._turned[:, None], swapped, lists)
        first, neurons = np.stack([column.first for column in stored]), np.arange(len(signs))[:, None]
        head = first[column_of, neurons]  # [neurons, lists]
        self._counts = np.minimum(first[column_of, neurons + 1] - head, MOST_EXAMPLES)  # [neurons, lists]
        examples = ranges((head + examples_before[column_of]).ravel(), self._counts.ravel())  # [examples]
        value, post, start = (joined(name)[examples] for name in ("value", "post", "start"))
        self._text, self._position = joined("text")[examples], joined("position")[examples]
        windows = [column.window[:-1] + cells for column, cells in zip(stored, cells_before, strict=True)]
        window = np.concatenate(windows)[examples]
        length = np.concatenate([np.diff(column.window) for column in stored])[examples]
        self._low = np.maximum(start, self._position - MOST_BEFORE)
        self._length = np.minimum(start + length, self._position + 1 + MOST_AFTER) - self._low
        cells = ranges(window + self._low - start, self._length)  # [positions]
        self._token, self._gate, self._in = (joined(name)[cells] for name in ("token", "gate", "in"))
        self._has_gaps = bool(np.isnan(self._gate).any())
        odd = np.array([ranked in ODD for _, ranked in names])
        self._value = np.where(np.repeat(self._turned[:, None] & odd, self._counts.ravel()), -value, value)
        self._post = np.where(np.repeat(self._turned, self._counts.sum(axis=1)), -post, post)
        self._examples = np.concatenate([[0], np.cumsum(self._counts.sum(axis=1))]).tolist()
        self._cells = np.concatenate([[0], np.cumsum(self._length)])[self._examples].tolist()

    def of(self, neuron: int) -> Windows:
        """The lists of a neuron, which is numbered from the first one of the batch."""
        rows = slice(self._examples[neuron], self._examples[neuron + 1])
        cells = slice(self._cells[neuron], self._cells[neuron + 1])
        gate, in_ = self._gate[cells], self._in[cells]
        return Windows(
            self._counts[neuron].tolist(), self._value[rows], self._post[rows], self._text[rows], self._position[rows],
            self._low[rows], self._length[rows], self._token[cells], gate,
            _negative(in_) if self._turned[neuron] else in_, np.flatnonzero(~np.isnan(gate)) if self._has_gaps else None,
        )  # fmt: skip


class SampleWindows:
    """The texts around the sampled positions, which are the same for all neurons."""

    def __init__(self, text: Integers, position: Integers, tokens_of: TokensOf) -> None:
        """`text` and `position` are [sample]."""
        self.text, self.position = text, position
        tokens = [tokens_of(int(number)) for number in text]
        self.low = np.maximum(position - SAMPLE_BEFORE, 0)
        high = np.minimum(position + 1 + SAMPLE_AFTER, [len(of_text) for of_text in tokens]) if len(tokens) else self.low
        self.length = high - self.low
        self.first = np.cumsum(self.length) - self.length
        bounds = zip(tokens, self.low.tolist(), high.tolist(), strict=True)
        around = [of_text[low:end] for of_text, low, end in bounds]
        self.token = np.concatenate(around).astype(np.int32) if around else np.zeros(0, dtype=np.int32)

    def windows(self, lists: list[int], sampled: Integers, gate: Kept, in_: Kept, post: Floats) -> Windows:
        """Lists of positions of the sample, `sampled` [examples], with their gate, in and post [examples].

        `lists` are the examples in each list. Nothing is kept of the positions around them but the text.
        """
        length = self.length[sampled]
        low, position = self.low[sampled], self.position[sampled]
        cells = ranges(self.first[sampled], length)
        peak = np.cumsum(length) - length + position - low
        around = np.full((2, len(cells)), np.nan, dtype=gate.dtype)
        around[0, peak], around[1, peak] = gate, in_
        return Windows(
            lists, post, post, self.text[sampled], position, low, length, self.token[cells], around[0], around[1], peak
        )


def _negative(values: Kept) -> Kept:
    """-values. By its sign bits: there is no arithmetic of 16-bit floats."""
    bits = values.view(np.dtype(f"u{values.itemsize}"))
    turned: Kept = (bits ^ bits.dtype.type(1 << (8 * values.itemsize - 1))).view(values.dtype)
    return turned
