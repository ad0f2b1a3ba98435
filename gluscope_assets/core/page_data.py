"""The examples of one neuron, packed for its page: bytes that the page's script unpacks.

How the page shows them belongs to `render` and the templates. Windows of one text that touch or overlap are stored once,
as a segment; every example points into one.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from isal import isal_zlib

from gluscope_assets.core.tokens import TokenDecoder, visible

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


class Texts(Protocol):
    """What pages need of the tokenized corpus."""

    @property
    def special_token_ids(self) -> tuple[int, ...]: ...

    def tokens_of(self, text: int) -> npt.NDArray[np.int32]: ...

    def document_of(self, text: int) -> str: ...

    def start_of(self, text: int) -> int: ...


class ShownTexts:
    """Texts as pages show them. What was asked for is kept: neurons share their texts."""

    def __init__(self, texts: Texts) -> None:
        self.special_token_ids, self.tokens_of = texts.special_token_ids, texts.tokens_of
        self._texts = texts
        self.source_of = lru_cache(MOST_REMEMBERED)(self._source_of)

    def _source_of(self, text: int) -> tuple[str, int]:
        """The visible name of a text's document, and where the text starts in it, in tokens."""
        return visible(self._texts.document_of(text)), self._texts.start_of(text)


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
    """Examples of one neuron with what is known of the positions around their peaks."""

    value: Floats
    post: Floats
    text: Integers
    position: Integers
    low: Integers
    """These five are [examples]; `low` is the first position of the window."""
    length: Integers
    """[examples], positions of the window; those of the arrays below follow one another."""
    token: npt.NDArray[np.int32]
    gate: Floats
    """NaN where nothing is known: the position was not routed to the neuron's expert, or its values are not kept."""
    in_: Floats


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
    gate: Floats
    in_: Floats

    @classmethod
    def from_arrow(cls, column: pa.ListArray) -> "ExampleColumn":
        """Flatten a column of list<struct<value, post, text, position, start, token, gate, in>>."""
        column = with_peaks(column)
        rows = column.flatten()
        fields = {field.name: values for field, values in zip(rows.type, rows.flatten(), strict=True)}

        def numbers(name: str, dtype: type) -> npt.NDArray[Any]:
            values = fields[name]
            if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
                values = values.flatten()
            cells: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
            return cells

        return cls(
            first=_offsets(column),
            value=numbers("value", np.float32),
            post=numbers("post", np.float32),
            text=numbers("text", np.int64),
            position=numbers("position", np.int64),
            start=numbers("start", np.int64),
            window=_offsets(fields["token"]),
            token=numbers("token", np.int32),
            gate=numbers("gate", np.float32),
            in_=numbers("in", np.float32),
        )

    def windows(self, neuron: int, sign: int, odd: bool) -> Windows:
        """The examples of row `neuron` that a page shows, in and post multiplied by `sign`; the value too if it is `odd`."""
        head = int(self.first[neuron])
        end = min(int(self.first[neuron + 1]), head + MOST_EXAMPLES)
        rows = slice(head, end)
        position, start = self.position[rows], self.start[rows]
        first = self.window[head : end + 1]
        low = np.maximum(start, position - MOST_BEFORE)
        length = np.minimum(start + np.diff(first), position + 1 + MOST_AFTER) - low
        cells: slice | Integers = slice(int(first[0]), int(first[-1]))
        if int(length.sum()) < int(first[-1] - first[0]):
            cells = ranges(first[:-1] + low - start, length)
        value, post, in_ = self.value[rows], self.post[rows], self.in_[cells]
        if sign < 0:
            value, post, in_ = -value if odd else value, -post, -in_
        return Windows(value, post, self.text[rows], position, low, length, self.token[cells], self.gate[cells], in_)


class SampleWindows:
    """The texts around the sampled positions, which are the same for all neurons."""

    def __init__(self, text: Integers, position: Integers, texts: Texts) -> None:
        self.text, self.position = text, position
        tokens = [texts.tokens_of(int(number)) for number in text]
        self.low = np.maximum(position - SAMPLE_BEFORE, 0)
        high = np.minimum(position + 1 + SAMPLE_AFTER, [len(part) for part in tokens]) if len(tokens) else self.low
        self.length = high - self.low
        self.first = np.cumsum(self.length) - self.length
        bounds = zip(tokens, self.low.tolist(), high.tolist(), strict=True)
        parts = [part[low:end] for part, low, end in bounds]
        self.token = np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, dtype=np.int32)

    def windows(self, place: Integers, gate: Floats, in_: Floats, post: Floats) -> Windows:
        """The windows of the sampled positions `place`, each of which has gate, in and post: nothing is kept around them."""
        length = self.length[place]
        low, position = self.low[place], self.position[place]
        cells = ranges(self.first[place], length)
        peak = np.cumsum(length) - length + position - low
        around = np.full((2, len(cells)), np.nan, dtype=np.float32)
        around[0, peak], around[1, peak] = gate, in_
        return Windows(post, post, self.text[place], position, low, length, self.token[cells], around[0], around[1])


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


def pack_examples(lists: Sequence[Windows], texts: ShownTexts, vocabulary: Vocabulary) -> PackedExamples:
    """Pack lists of one neuron's examples. Where windows overlap, the values of the earlier list stay."""
    value, post, text, position, low, length, token, gate, in_ = (
        np.concatenate([getattr(windows, name) for windows in lists])
        for name in ("value", "post", "text", "position", "low", "length", "token", "gate", "in_")
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
    gates, ins = np.full((2, positions), np.nan, dtype=np.float32)
    # Backwards: of several values for a place the last one stays.
    known = np.flatnonzero(~np.isnan(gate))[::-1]
    gates[target[known]], ins[target[known]] = gate[known], in_[known]

    piece, identities, split = _pieces(tokens, segment_text, segment_low, segment_first, texts, vocabulary)
    document_of, start_of = zip(*map(texts.source_of, segment_text.tolist()), strict=True) if len(segment_text) else ((), ())
    documents = {name: place for place, name in enumerate(dict.fromkeys(document_of))}
    narrow_gates, wide_gates = _narrow(gates)
    narrow_ins, wide_ins = _narrow(ins)
    strings = [
        (vocabulary.encoded(identities[: len(identities) - len(split)]) + "".join(f"{shown}\0" for shown in split).encode())[
            :-1
        ],
        "\0".join(documents).encode("utf-8", "replace"),
    ]
    numbers = [
        planes(identities, "<u4"),
        planes(segment_text, "<u4"),
        planes(start_of, "<u4"),
        planes(segment_low, "<u4"),
        planes(np.array([documents[name] for name in document_of]), "<u2"),
        planes(segment_length, "<u2"),
        planes(value, "<f4"),
        planes(post, "<f4"),
        planes(segment_of, "<u2"),
        planes(offset, "<u2"),
        planes(offset + position - low, "<u2"),
        planes(offset + length, "<u2"),
        planes(piece, "<u2"),
        planes(narrow_gates, "<f2"),
        planes(narrow_ins, "<f2"),
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
        lists=[len(windows.text) for windows in lists],
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
    order = np.lexsort((low, text))
    if not len(order):
        empty = np.zeros(0, dtype=np.int64)
        return order, empty, empty, empty, empty
    # Texts are set so far apart on one line that windows of two texts never touch.
    apart = int(high.max()) + 2
    begin, end = text[order] * apart + low[order], text[order] * apart + high[order]
    reached = np.maximum.accumulate(end)
    fresh = np.concatenate([[True], begin[1:] > reached[:-1]])
    heads = np.flatnonzero(fresh)
    tails = np.concatenate([heads[1:], [len(order)]]) - 1
    return order, np.cumsum(fresh) - 1, text[order][heads], low[order][heads], reached[tails] - begin[heads]


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
    ordered = unique[np.argsort(-count[unique], kind="stable")]
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


def _narrow(values: Floats) -> tuple[npt.NDArray[np.float16], Integers]:
    """`values` in 16 bits, and the places of those that 16 bits would turn into 0 or infinity."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = values.astype(np.float16)
    # As bits, which are compared faster than 16-bit floats. NaN stays: it marks what is not known.
    size = narrow.view(np.uint16) & 0x7FFF
    wide = np.flatnonzero((size == 0x7C00) | ((size == 0) & (values != 0)))
    narrow[wide] = 0
    return narrow, wide


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
