"""The examples of one neuron, packed for its page: bytes that the page's script unpacks.

How the page shows them belongs to `render` and the templates. Windows of one text that touch or overlap are stored once,
as a segment; every example points into one.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from isal import isal_zlib

from gluscope_assets.core.corpus.decoder import TokenDecoder, visible
from gluscope_assets.core.quadrants import oriented_quadrant

MOST_EXAMPLES = 16
"""Examples of a list that a page shows; a study may keep more."""
MOST_BEFORE, MOST_AFTER = 47, 16
"""Positions of a window that a page shows before and after the peak; a study may keep more."""
SAMPLE_BEFORE, SAMPLE_AFTER = 31, 12
"""Positions that a page shows around a sampled one, of which it has the text alone."""

MOST_REMEMBERED = 1 << 16
"""Texts whose documents' names, and whose split characters, are kept in memory."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Kept = npt.NDArray[np.float16] | npt.NDArray[np.float32]
"""Gate or in of the positions of windows and of the sample, as tables keep them."""


class Texts(Protocol):
    """What pages need of the tokenized corpus."""

    @property
    def special_token_ids(self) -> tuple[int, ...]: ...

    def tokens_of(self, text: int) -> npt.NDArray[np.int32]: ...

    def document_of(self, text: int) -> str: ...

    def start_of(self, text: int) -> int: ...


class ShownTexts:
    """Texts as pages show them. What was asked for is kept: neurons share their texts, and layers their sample."""

    def __init__(self, texts: Texts) -> None:
        self.special_token_ids, self.tokens_of = texts.special_token_ids, texts.tokens_of
        self._texts = texts
        self._sources: dict[int, tuple[str, int]] = {}
        self._around: SampleWindows | None = None

    def source_of(self, text: int) -> tuple[str, int]:
        """The visible name of a text's document, and where the text starts in it, in tokens."""
        found = self._sources.get(text)
        if found is None:
            if len(self._sources) == MOST_REMEMBERED:
                self._sources.clear()
            found = self._sources[text] = visible(self._texts.document_of(text)), self._texts.start_of(text)
        return found

    def sources(self, texts: list[int]) -> list[tuple[str, int]]:
        """Those of `texts`."""
        try:
            return [self._sources[text] for text in texts]
        except KeyError:
            return [self.source_of(text) for text in texts]

    def around(self, text: Integers, position: Integers) -> "SampleWindows":
        """The windows around sampled positions."""
        known = self._around
        if known is None or not (np.array_equal(known.text, text) and np.array_equal(known.position, position)):
            known = self._around = SampleWindows(text, position, self)
        return known


class Vocabulary:
    """Token pieces as pages show them, made once and kept."""

    def __init__(self, decoder: TokenDecoder) -> None:
        self.decoder = decoder
        self._shown: dict[int, str] = {}
        self._chips: dict[int, str] = {}
        self._split: dict[int, dict[int, str]] = {}
        self._bytes = np.zeros(0, dtype=np.uint8)
        self._first = np.zeros(len(decoder.split), dtype=np.int64)
        self._length = np.zeros(len(decoder.split), dtype=np.int64)

    def __getitem__(self, token: int) -> str:
        shown = self._shown.get(token)
        if shown is None:
            shown = self._shown[token] = visible(self.decoder.piece(token))
        return shown

    def pieces(self, tokens: list[int]) -> list[str]:
        """The pieces of `tokens`."""
        try:
            return [self._shown[token] for token in tokens]
        except KeyError:
            return [self[token] for token in tokens]

    def encoded(self, tokens: Integers) -> bytes:
        """The pieces of `tokens`, which are not repeated, in UTF-8, a zero byte after each."""
        beyond = int(tokens.max(initial=-1)) + 1 - len(self._length)
        if beyond > 0:
            self._first, self._length = np.pad(self._first, (0, beyond)), np.pad(self._length, (0, beyond))
        length = self._length[tokens]
        if not length.all():
            self._encode(tokens[length == 0])
            length = self._length[tokens]
        return self._bytes[ranges(self._first[tokens], length)].tobytes()

    def _encode(self, tokens: Integers) -> None:
        """Keep the bytes of tokens that have none yet."""
        pieces = [f"{self[token]}\0".encode("utf-8", "replace") for token in tokens.tolist()]
        length = np.array([len(piece) for piece in pieces])
        self._first[tokens] = len(self._bytes) + np.cumsum(length) - length
        self._length[tokens] = length
        self._bytes = np.concatenate([self._bytes, np.frombuffer(b"".join(pieces), dtype=np.uint8)])

    def split_pieces(self, texts: Texts | ShownTexts, text: int) -> dict[int, str]:
        """By position, the pieces of one text's tokens that split characters, whole as their neighbours make them."""
        found = self._split.get(text)
        if found is None:
            if len(self._split) == MOST_REMEMBERED:
                self._split.clear()
            tokens = texts.tokens_of(text)
            found = self._split[text] = {
                place: visible(piece)
                for first, end in self.decoder.split_runs(tokens)
                for place, piece in enumerate(self.decoder.whole_pieces(tokens[first:end].tolist()), first)
            }
        return found

    def chip(self, token: int) -> str:
        """The piece of one token as HTML, on one line."""
        shown = self._chips.get(token)
        if shown is None:
            shown = self._chips[token] = html.escape(self[token].replace("\n", ""))
        return shown


@dataclass(frozen=True)
class Windows:
    """Lists of examples of one neuron with what is known of the positions around their peaks."""

    lists: list[int]
    """Examples in each list."""
    value: Floats
    post: Floats
    text: Integers
    position: Integers
    low: Integers
    """These five are [examples], list by list; `low` is the first position of the window."""
    length: Integers
    """[examples], positions of the window; those of the arrays below follow one another."""
    token: npt.NDArray[np.int32]
    gate: Kept
    """NaN where nothing is known: the position was not routed to the neuron's expert, or its values are not kept."""
    in_: Kept
    known: Integers | None
    """The positions whose gate and in are not NaN; None if that is all of them."""


@dataclass(frozen=True)
class ExampleColumn:
    """One list column of the examples table for a batch of neurons, flattened."""

    first: Integers
    """[neurons + 1]; neuron i has the examples first[i]:first[i + 1]."""
    value: Floats
    post: Floats
    text: Integers
    position: Integers
    start: Integers
    """These five are [examples]."""
    window: Integers
    """[examples + 1]; example e has the positions window[e]:window[e + 1] of the three arrays below."""
    token: npt.NDArray[np.int32]
    gate: Kept
    in_: Kept
    """As they are stored, in 16 bits or 32."""

    @classmethod
    def from_arrow(cls, column: pa.ListArray) -> "ExampleColumn":
        """Flatten a column of list<struct<value, post, text, position, start, token, gate, in>>."""
        column = with_peaks(column)
        rows = column.flatten()
        fields = {field.name: values for field, values in zip(rows.type, rows.flatten(), strict=True)}

        def cells(name: str) -> npt.NDArray[Any]:
            values = fields[name]
            if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
                values = values.flatten()
            return values.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]

        return cls(
            first=_offsets(column),
            value=cells("value").astype(np.float32, copy=False),
            post=cells("post").astype(np.float32, copy=False),
            text=cells("text").astype(np.int64),
            position=cells("position").astype(np.int64),
            start=cells("start").astype(np.int64),
            window=_offsets(fields["token"]),
            token=cells("token").astype(np.int32, copy=False),
            gate=cells("gate"),
            in_=cells("in"),
        )


class RankedExamples:
    """Lists of a batch of neurons as their pages show them: cut to what a page shows, oriented, by neuron, then list."""

    def __init__(
        self, columns: Mapping[tuple[str, str], ExampleColumn], names: Sequence[tuple[str, str]], signs: Integers
    ) -> None:
        """The lists `names`, (quadrant, activation), of neurons whose in and post are multiplied by `signs` [neurons].

        With a quadrant, `names` and `columns` hold the one with the other sign of in.
        """
        parts, lists = [columns[name] for name in names], np.arange(len(names))
        self._turned = signs < 0
        swapped = np.array([names.index((oriented_quadrant(quadrant, -1), ranked)) for quadrant, ranked in names])
        stored = np.where(self._turned[:, None], swapped, lists)
        """[neurons, lists], the column that holds what a page shows as a list."""
        first, neurons = np.stack([part.first for part in parts]), np.arange(len(signs))[:, None]
        head = first[stored, neurons]
        self._counts = np.minimum(first[stored, neurons + 1] - head, MOST_EXAMPLES)

        def joined(name: str) -> npt.NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in parts])

        before = np.cumsum([0, *(len(part.value) for part in parts[:-1])])
        examples = ranges((head + before[stored]).ravel(), self._counts.ravel())
        value, post, start = (joined(name)[examples] for name in ("value", "post", "start"))
        self._text, self._position = joined("text")[examples], joined("position")[examples]
        before = np.cumsum([0, *(len(part.token) for part in parts[:-1])])
        cell = np.concatenate([part.window[:-1] + cells for part, cells in zip(parts, before, strict=True)])[examples]
        known = np.concatenate([np.diff(part.window) for part in parts])[examples]
        self._low = np.maximum(start, self._position - MOST_BEFORE)
        self._length = np.minimum(start + known, self._position + 1 + MOST_AFTER) - self._low
        cells = ranges(cell + self._low - start, self._length)
        self._token, self._gate, self._in = (joined(name)[cells] for name in ("token", "gate", "in_"))
        self._has_gaps = bool(np.isnan(self._gate).any())
        odd = np.array([ranked in ("in", "post") for _, ranked in names])
        self._value = np.where(np.repeat(self._turned[:, None] & odd, self._counts.ravel()), -value, value)
        self._post = np.where(np.repeat(self._turned, self._counts.sum(axis=1)), -post, post)
        self._examples = np.concatenate([[0], np.cumsum(self._counts.sum(axis=1))]).tolist()
        self._cells = np.concatenate([[0], np.cumsum(self._length)])[self._examples].tolist()

    def of(self, neuron: int) -> Windows:
        """Those of the neuron at a place of the batch."""
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

    def __init__(self, text: Integers, position: Integers, texts: Texts | ShownTexts) -> None:
        self.text, self.position = text, position
        tokens = [texts.tokens_of(int(number)) for number in text]
        self.low = np.maximum(position - SAMPLE_BEFORE, 0)
        high = np.minimum(position + 1 + SAMPLE_AFTER, [len(part) for part in tokens]) if len(tokens) else self.low
        self.length = high - self.low
        self.first = np.cumsum(self.length) - self.length
        bounds = zip(tokens, self.low.tolist(), high.tolist(), strict=True)
        parts = [part[low:end] for part, low, end in bounds]
        self.token = np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, dtype=np.int32)

    def windows(self, lists: list[int], place: Integers, gate: Kept, in_: Kept, post: Floats) -> Windows:
        """Lists of sampled positions `place`, each of which has gate, in and post: nothing is kept around them."""
        length = self.length[place]
        low, position = self.low[place], self.position[place]
        cells = ranges(self.first[place], length)
        peak = np.cumsum(length) - length + position - low
        around = np.full((2, len(cells)), np.nan, dtype=gate.dtype)
        around[0, peak], around[1, peak] = gate, in_
        return Windows(
            lists, post, post, self.text[place], position, low, length, self.token[cells], around[0], around[1], peak
        )


@dataclass(frozen=True)
class PackedExamples:
    """Lists of one neuron's examples: the bytes for the script, and what the page shows without it."""

    packed: bytes
    """Deflated; `site/static/neuron.js` reads it and states the order of its parts."""
    sizes: dict[str, int]
    """Lengths of the packed parts: pieces, documents, segments, positions, wide gates, wide ins."""
    lists: list[int]
    """Examples in each list, in the order given."""
    post: Floats
    text: Integers
    position: Integers
    first: Integers
    """[examples], where the example's window begins in `piece`."""
    peak: Integers
    """[examples], where its peak is in `piece`."""
    end: Integers
    """[examples], where its window ends in `piece`."""
    piece: Integers
    """[positions], the number of each position's piece."""
    identities: Integers
    """[pieces], the token of each piece."""
    split: list[str]
    """The last pieces, which are those of tokens that split a character and stand for what they show in a text."""

    def shown(self, places: Integers, vocabulary: Vocabulary) -> list[str]:
        """The texts of the pieces at some places of `piece`."""
        piece = self.piece[places]
        shown = vocabulary.pieces(self.identities[piece].tolist())
        if self.split:
            plain = len(self.identities) - len(self.split)
            for place in np.flatnonzero(piece >= plain).tolist():
                shown[place] = self.split[int(piece[place]) - plain]
        return shown


def pack_examples(parts: Sequence[Windows], texts: ShownTexts, vocabulary: Vocabulary) -> PackedExamples:
    """Pack lists of one neuron's examples. Where windows overlap, the values of the earlier list stay."""
    value, post, text, position, low, length, token = (
        np.concatenate([getattr(windows, name) for windows in parts])
        for name in ("value", "post", "text", "position", "low", "length", "token")
    )
    order, segment, segment_text, segment_low, segment_length = _segments(text, low, low + length)
    segment_first = np.cumsum(segment_length) - segment_length
    offset, segment_of = np.empty_like(low), np.empty_like(low)
    offset[order] = low[order] - segment_low[segment]
    segment_of[order] = segment
    first = segment_first[segment_of] + offset
    target = ranges(first, length)
    positions = int(segment_length.sum())
    tokens = np.zeros(positions, dtype=np.int64)
    tokens[target] = token
    gates, ins = np.full((2, positions), np.nan, dtype=np.result_type(*(windows.gate for windows in parts)))
    end = len(target)
    # Backwards: of several values for a place the last one stays.
    for windows in reversed(parts):
        begin = end - len(windows.token)
        known = slice(None) if windows.known is None else windows.known
        places = target[begin:end][known][::-1]
        gates[places], ins[places] = windows.gate[known][::-1], windows.in_[known][::-1]
        end = begin

    piece, identities, split = _pieces(tokens, segment_text, segment_low, segment_first, texts, vocabulary)
    sources = texts.sources(segment_text.tolist())
    start_of = np.array([start for _, start in sources], dtype=np.int64)
    documents: dict[str, int] = {}
    document = [documents.setdefault(name, len(documents)) for name, _ in sources]
    narrow_gates, wide_gates = _narrow(gates)
    narrow_ins, wide_ins = _narrow(ins)
    strings = [
        (vocabulary.encoded(identities[: len(identities) - len(split)]) + "".join(f"{shown}\0" for shown in split).encode())[
            :-1
        ],
        "\0".join(documents).encode("utf-8", "replace"),
    ]
    numbers = [
        planes(np.concatenate([identities, segment_text, start_of, segment_low]), "<u4"),
        planes(np.concatenate([value, post]), "<f4"),
        planes(
            np.concatenate(
                [document, segment_length, segment_of, offset, offset + position - low, offset + length, piece], dtype=np.int64
            ),
            "<u2",
        ),
        planes(np.concatenate([narrow_gates, narrow_ins]), "<f2"),
        *(
            part
            for wide, values in ((wide_gates, gates), (wide_ins, ins))
            for part in (planes(wide, "<u4"), planes(values[wide], "<f4"))
        ),
    ]
    return PackedExamples(
        packed=isal_zlib.compress(b"".join([*strings, *numbers]), 1, -isal_zlib.MAX_WBITS),
        sizes={
            "pieceBytes": len(strings[0]),
            "documentBytes": len(strings[1]),
            "pieces": len(identities),
            "segments": len(segment_text),
            "positions": positions,
            "wideGates": len(wide_gates),
            "wideIns": len(wide_ins),
        },
        lists=[count for windows in parts for count in windows.lists],
        post=post,
        text=text,
        position=position,
        first=first,
        peak=first + position - low,
        end=first + length,
        piece=piece,
        identities=identities,
        split=split,
    )


def _segments(text: Integers, low: Integers, high: Integers) -> tuple[Integers, Integers, Integers, Integers, Integers]:
    """Unite the windows [low, high) of each text that touch.

    Returns the windows' order by (text, low), the segment of each in that order, and text, low and length of each segment.
    """
    # Texts are set so far apart on one line that windows of two texts never touch.
    apart = int(high.max(initial=0)) + 2
    begin = text * apart + low
    order = np.argsort(begin, kind="stable")
    if not len(order):
        empty = np.zeros(0, dtype=np.int64)
        return order, empty, empty, empty, empty
    begin, end = begin[order], (text * apart + high)[order]
    reached = np.maximum.accumulate(end)
    fresh = np.concatenate([[True], begin[1:] > reached[:-1]])
    heads = np.flatnonzero(fresh)
    tails = np.concatenate([heads[1:], [len(order)]]) - 1
    leading = order[heads]
    return order, np.cumsum(fresh) - 1, text[leading], low[leading], reached[tails] - begin[heads]


def _pieces(
    tokens: Integers,
    segment_text: Integers,
    segment_low: Integers,
    segment_first: Integers,
    texts: ShownTexts,
    vocabulary: Vocabulary,
) -> tuple[Integers, Integers, list[str]]:
    """The number of each position's piece, the token of each piece, and the texts of the last ones.

    A token that splits a character has a further piece for each text that it shows.
    """
    count = np.bincount(tokens)
    unique = np.flatnonzero(count)
    # Frequent pieces get small numbers: that leaves the high bytes almost constant.
    rarity = -count[unique]
    # A stable sort of 16 bits takes two passes.
    ordered = unique[np.argsort(rarity.astype(np.int16) if len(tokens) < 1 << 15 else rarity, kind="stable")]
    # From here on a table of places: each token's in `ordered`.
    count[ordered] = np.arange(len(ordered))
    piece = count[tokens]
    decoder = vocabulary.decoder
    entries: dict[tuple[int, str], int] = {}
    if decoder.splits(ordered):
        split = np.flatnonzero(decoder.split[np.minimum(tokens, len(decoder.split) - 1)])
        segment = np.searchsorted(segment_first, split, side="right") - 1
        of_text, position = segment_text[segment], segment_low[segment] + split - segment_first[segment]
        for at, text, place in zip(split.tolist(), of_text.tolist(), position.tolist(), strict=True):
            key = int(tokens[at]), vocabulary.split_pieces(texts, text)[place]
            piece[at] = entries.setdefault(key, len(ordered) + len(entries))
    if entries:
        ordered = np.concatenate([ordered, [token for token, _ in entries]])
    return piece, ordered, [shown for _, shown in entries]


def _narrow(values: Kept) -> tuple[npt.NDArray[np.float16], Integers]:
    """`values` in 16 bits, and the places of those that 16 bits would turn into 0 or infinity."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = values.astype(np.float16)
    # As bits, which are compared faster than 16-bit floats. NaN stays: it marks what is not known.
    size = narrow.view(np.uint16) & 0x7FFF
    lost = size == 0x7C00
    if values.dtype != np.float16:
        lost |= (size == 0) & (values != 0)
    wide = np.flatnonzero(lost)
    narrow[wide] = 0
    return narrow, wide


def _negative(values: Kept) -> Kept:
    """-values. By its sign bits: there is no arithmetic of 16-bit floats."""
    bits = values.view(np.dtype(f"u{values.itemsize}"))
    turned: Kept = (bits ^ bits.dtype.type(1 << (8 * values.itemsize - 1))).view(values.dtype)
    return turned


def planes(values: npt.ArrayLike, dtype: str) -> bytes:
    """`values` as `dtype`, all first bytes, then all second bytes, and so on: like bytes compress together."""
    array = np.ascontiguousarray(values, dtype=dtype)
    return array.view(np.uint8).reshape(-1, array.itemsize).T.tobytes()


def ranges(first: Integers, length: Integers) -> Integers:
    """first[0], first[0] + 1, … (length[0] of them), first[1], …"""
    return np.repeat(first - (np.cumsum(length) - length), length) + np.arange(int(length.sum()))


def with_peaks(column: pa.ListArray) -> pa.ListArray:
    """Lists of examples without those whose peak is not known: imported tables name texts alone."""
    examples = column.flatten()
    if not examples.field("position").null_count:
        return column
    known = examples.field("position").is_valid()
    first = np.concatenate([[0], np.cumsum(known.to_numpy(zero_copy_only=False))])
    offsets = column.offsets.to_numpy() - column.offsets[0].as_py()
    return pa.ListArray.from_arrays(pa.array(first[offsets].astype(np.int32)), examples.filter(known))


def _offsets(column: pa.ListArray) -> Integers:
    offsets: Integers = column.offsets.to_numpy().astype(np.int64)
    from_zero: Integers = offsets - offsets[0]
    return from_zero
