"""The examples of one neuron, packed for its page: bytes that the page's script unpacks.

Windows (`windows`) of one text that touch or overlap are stored once, as a segment; every example points into one. How a
page shows them belongs to the templates and to `site/static/neuron.js`.

The format is made by hand, because small pages for all neurons are what the project exists for: a browser has no reader of
Arrow or Parquet, a library that reads them is larger than a page, and a general format would store the positions that windows
share again for each of them.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from gluscope_assets.core.arrays import Integers, ranges
from gluscope_assets.core.pages.formats import safe_json
from gluscope_assets.core.pages.shown_texts import ShownTexts
from gluscope_assets.core.pages.vocabulary import Vocabulary
from gluscope_assets.core.pages.windows import Kept, Windows


@dataclass(frozen=True)
class PackedExamples:
    """Lists of one neuron's examples, as the page's script reads them."""

    packed: bytes
    """Deflated; `site/static/neuron.js` reads it and states the order of its arrays."""
    sizes: dict[str, int]
    """Lengths of the packed arrays: pieces, documents, segments, positions, wide gates, wide ins."""
    lists: list[int]
    """Examples in each list, in the order given."""

    def to_json(self, facts: Mapping[str, Any], further: str = "") -> bytes:
        """The object that the page's script reads: `facts`, `further` members that are JSON already, and the examples.

        The examples are numbers and base64, which need no escapes in a script element.
        """
        head = safe_json({**facts, "lists": self.lists, "sizes": self.sizes})[:-1]
        return b"".join([f'{head}{further},"packed":"'.encode(), base64.b64encode(self.packed), b'"}'])


def pack_examples(lists: Sequence[Windows], texts: ShownTexts, vocabulary: Vocabulary) -> PackedExamples:
    """Pack lists of one neuron's examples. Where windows overlap, the values of the earlier list stay."""
    value, post, text, position, low, length, token = (
        np.concatenate([getattr(windows, name) for windows in lists])
        for name in ("value", "post", "text", "position", "low", "length", "token")
    )
    segments = _Segments.of_windows(text, low, low + length)
    first = segments.first[segments.of] + segments.offset
    cells = ranges(first, length)
    tokens = np.zeros(segments.positions, dtype=np.int64)
    tokens[cells] = token
    piece, identities, split = _pieces(tokens, segments, texts, vocabulary)
    sources = list(map(texts.source_of, segments.text.tolist()))
    names: dict[str, int] = {}
    document = [names.setdefault(name, len(names)) for name, _ in sources]
    start = np.array([start for _, start in sources], dtype=np.int64)
    pieces = vocabulary.encoded(identities[: len(identities) - len(split)]) + "".join(f"{one}\0" for one in split).encode()
    strings = [pieces[:-1], "\0".join(names).encode("utf-8", "replace")]
    peak = segments.offset + position - low
    small = [document, segments.length, segments.of, segments.offset, peak, segments.offset + length, piece]
    (gates, wide_gates), (ins, wide_ins) = (_narrow(values) for values in _values(lists, cells, segments.positions))
    packed = [
        *strings,
        planes(np.concatenate([identities, segments.text, start, segments.low]), "<u4"),
        planes(np.concatenate([value, post]), "<f4"),
        planes(np.concatenate(small, dtype=np.int64), "<u2"),
        planes(np.concatenate([gates, ins]), "<f2"),
        *(planes(*column) for wide in (wide_gates, wide_ins) for column in ((wide.at, "<u4"), (wide.values, "<f4"))),
    ]
    sizes = {
        "pieceBytes": len(strings[0]),
        "documentBytes": len(strings[1]),
        "pieces": len(identities),
        "segments": len(segments.text),
        "positions": segments.positions,
        "wideGates": len(wide_gates.at),
        "wideIns": len(wide_ins.at),
    }
    return PackedExamples(
        packed=isal_zlib.compress(b"".join(packed), 1, -isal_zlib.MAX_WBITS),
        sizes=sizes,
        lists=[count for windows in lists for count in windows.lists],
    )


class _Segments(NamedTuple):
    """The positions of windows, each once: windows of one text that touch or overlap are one segment."""

    text: Integers
    low: Integers
    """The segment's first position in its text."""
    length: Integers
    first: Integers
    """Where it begins among the positions of all segments. These four are [segments], by text, then position."""
    of: Integers
    """The segment that a window lies in."""
    offset: Integers
    """Where the window begins in its segment. These two are [windows]."""
    positions: int
    """Of all segments together."""

    @classmethod
    def of_windows(cls, text: Integers, low: Integers, high: Integers) -> "_Segments":
        """Unite the windows [low, high) of each text that touch; the three are [windows]."""
        # Texts are set so far apart on one line that windows of two texts never touch.
        apart = int(high.max(initial=0)) + 2
        begin = text * apart + low
        order = np.argsort(begin, kind="stable")
        if not len(order):
            empty = np.zeros(0, dtype=np.int64)
            return cls(empty, empty, empty, empty, empty, empty, 0)
        begin, end = begin[order], (text * apart + high)[order]
        reached = np.maximum.accumulate(end)
        fresh = np.concatenate([[True], begin[1:] > reached[:-1]])
        heads = np.flatnonzero(fresh)
        tails = np.concatenate([heads[1:], [len(order)]]) - 1
        leading = order[heads]
        of = np.empty_like(low)
        of[order] = np.cumsum(fresh) - 1
        segment_low, length = low[leading], reached[tails] - begin[heads]
        ends = np.cumsum(length)
        return cls(text[leading], segment_low, length, ends - length, of, low - segment_low[of], int(ends[-1]))


def _values(lists: Sequence[Windows], cells: Integers, positions: int) -> npt.NDArray[Any]:
    """Gate and in, [2, positions], at the positions of all segments; `cells` says which of them a position of a window is."""
    values = np.full((2, positions), np.nan, dtype=np.result_type(*(windows.gate for windows in lists)))
    end = len(cells)
    # Backwards: of several values for a position the last one that is written stays.
    for windows in reversed(lists):
        begin = end - len(windows.token)
        valued = slice(None) if windows.valued is None else windows.valued
        at = cells[begin:end][valued][::-1]
        values[0, at], values[1, at] = windows.gate[valued][::-1], windows.in_[valued][::-1]
        end = begin
    return values


def _pieces(
    tokens: Integers, segments: _Segments, texts: ShownTexts, vocabulary: Vocabulary
) -> tuple[Integers, Integers, list[str]]:
    """The number of each position's piece, [positions], the token of each piece, [pieces], and the texts of the last ones.

    A token that splits a character has a further piece for each text that it shows.
    """
    count = np.bincount(tokens)
    unique = np.flatnonzero(count)
    # Frequent pieces get small numbers: that leaves the high bytes almost constant.
    rarity = -count[unique]
    # A stable sort of 16 bits takes two passes.
    ordered = unique[np.argsort(rarity.astype(np.int16) if len(tokens) < 1 << 15 else rarity, kind="stable")]
    number = count  # of each token in `ordered`; the array is used again
    number[ordered] = np.arange(len(ordered))
    piece = number[tokens]
    decoder = vocabulary.decoder
    entries: dict[tuple[int, str], int] = {}
    if decoder.splits(ordered):
        split = np.flatnonzero(decoder.split[np.minimum(tokens, len(decoder.split) - 1)])
        segment = np.searchsorted(segments.first, split, side="right") - 1
        of_text, position = segments.text[segment], segments.low[segment] + split - segments.first[segment]
        for at, text, here in zip(split.tolist(), of_text.tolist(), position.tolist(), strict=True):
            key = int(tokens[at]), vocabulary.split_pieces(texts.tokens_of, text)[here]
            piece[at] = entries.setdefault(key, len(ordered) + len(entries))
    if entries:
        ordered = np.concatenate([ordered, [token for token, _ in entries]])
    return piece, ordered, [shown for _, shown in entries]


class _Wide(NamedTuple):
    """Values that 16 bits would turn into 0 or infinity."""

    at: Integers
    values: Kept


def _narrow(values: Kept) -> tuple[npt.NDArray[np.float16], _Wide]:
    """`values` in 16 bits, 0 for values that these cannot hold, which come beside them."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = values.astype(np.float16)
    # As bits, which are compared faster than 16-bit floats. NaN stays: it marks what has no value.
    size = narrow.view(np.uint16) & 0x7FFF
    lost = size == 0x7C00
    if values.dtype != np.float16:
        lost |= (size == 0) & (values != 0)
    at = np.flatnonzero(lost)
    narrow[at] = 0
    return narrow, _Wide(at, values[at])


def planes(values: npt.ArrayLike, dtype: str) -> bytes:
    """`values` as `dtype`, all first bytes, then all second bytes, and so on: like bytes compress together."""
    array = np.ascontiguousarray(values, dtype=dtype)
    return array.view(np.uint8).reshape(-1, array.itemsize).T.tobytes()
