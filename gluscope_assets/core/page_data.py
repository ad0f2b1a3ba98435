"""The examples of one neuron, packed for its page: bytes that the page's script unpacks.

How the page shows them belongs to `render` and the templates. Windows of one text that touch or overlap are stored once,
as a segment; every example points into one.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gluscope_assets.core.tokens import CONTEXT_TOKENS, TokenDecoder, visible

MOST_EXAMPLES = 16
"""Examples of a list that a page shows; a study may keep more."""
MOST_BEFORE, MOST_AFTER = 47, 16
"""Positions of a window that a page shows before and after the peak; a study may keep more."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Texts(Protocol):
    """What pages need of the tokenized corpus."""

    @property
    def special_token_ids(self) -> tuple[int, ...]: ...

    def tokens_of(self, text: int) -> npt.NDArray[np.int32]: ...

    def document_of(self, text: int) -> str: ...

    def start_of(self, text: int) -> int: ...


class Vocabulary:
    """Token pieces as pages show them, made once and kept."""

    def __init__(self, decoder: TokenDecoder) -> None:
        self.decoder = decoder
        self._shown: dict[int, str] = {}

    def __getitem__(self, token: int) -> str:
        shown = self._shown.get(token)
        if shown is None:
            shown = self._shown[token] = visible(self.decoder.piece(token))
        return shown


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
    token: Integers
    gate: Floats
    in_: Floats

    @classmethod
    def from_arrow(cls, column: pa.ListArray) -> "ExampleColumn":
        """Flatten a column of list<struct<value, post, text, position, start, token, gate, in>>."""
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
            token=numbers("token", np.int64),
            gate=numbers("gate", np.float32),
            in_=numbers("in", np.float32),
        )


@dataclass(frozen=True)
class PackedExamples:
    """One neuron's examples: the bytes for the script, and what the page shows without it."""

    packed: bytes
    """Deflated; `site/static/neuron.js` reads it and states the order of its parts."""
    sizes: dict[str, int]
    """Lengths of the packed parts: pieces, documents, segments, positions, wide gates, wide ins."""
    lists: list[int]
    """Examples in each list, in the order given."""
    value: Floats
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
    """[positions], into `pieces`."""
    pieces: list[str]


def pack_examples(
    lists: Sequence[tuple[str, ExampleColumn]], neuron: int, sign: int, texts: Texts, vocabulary: Vocabulary
) -> PackedExamples:
    """Pack row `neuron` of the batch. `lists` are (activation, column) in the page's order; `sign` multiplies in and post."""
    spans = []
    for activation, column in lists:
        head = int(column.first[neuron])
        end = min(int(column.first[neuron + 1]), head + MOST_EXAMPLES)
        spans.append((column, head, end, sign if activation in ("in", "post") else 1))
    text = np.concatenate([column.text[head:end] for column, head, end, _ in spans])
    position = np.concatenate([column.position[head:end] for column, head, end, _ in spans])
    start = np.concatenate([column.start[head:end] for column, head, end, _ in spans])
    value = np.concatenate([column.value[head:end] * np.float32(factor) for column, head, end, factor in spans])
    post = np.concatenate([column.post[head:end] for column, head, end, _ in spans]) * np.float32(sign)
    length = np.concatenate([np.diff(column.window[head : end + 1]) for column, head, end, _ in spans])
    inside = [(column, slice(int(column.window[head]), int(column.window[end]))) for column, head, end, _ in spans]
    token = np.concatenate([column.token[part] for column, part in inside])
    gate = np.concatenate([column.gate[part] for column, part in inside])
    in_ = np.concatenate([column.in_[part] for column, part in inside]) * np.float32(sign)

    low = np.maximum(start, position - MOST_BEFORE)
    high = np.minimum(start + length, position + 1 + MOST_AFTER)
    shown = high - low
    source = _ranges(np.cumsum(length) - length + low - start, shown)

    order, segment, segment_text, segment_low, segment_length = _segments(text, low, high)
    segment_first = np.cumsum(segment_length) - segment_length
    first = np.empty_like(low)
    first[order] = segment_first[segment] + low[order] - segment_low[segment]
    segment_of = np.empty_like(low)
    segment_of[order] = segment
    target = _ranges(first, shown)
    positions = int(segment_length.sum())
    tokens = np.zeros(positions, dtype=np.int64)
    gates, ins = np.zeros((2, positions), dtype=np.float32)
    tokens[target], gates[target], ins[target] = token[source], gate[source], in_[source]

    piece, pieces, identities = _pieces(tokens, segment_text, segment_low, segment_first, texts, vocabulary)
    document_of = [texts.document_of(int(number)) for number in segment_text]
    documents = list(dict.fromkeys(document_of))
    narrow_gates, wide_gates = _narrow(gates)
    narrow_ins, wide_ins = _narrow(ins)
    offset = first - segment_first[segment_of]
    parts = [
        "\0".join(pieces).encode("utf-8", "replace"),
        "\0".join(name.replace("\0", "␀") for name in documents).encode("utf-8", "replace"),
        _planes(identities, "<u4"),
        _planes(segment_text, "<u4"),
        _planes(np.array([texts.start_of(int(number)) for number in segment_text]), "<u4"),
        _planes(segment_low, "<u4"),
        _planes(np.array([documents.index(name) for name in document_of]), "<u2"),
        _planes(segment_length, "<u2"),
        _planes(value, "<f4"),
        _planes(post, "<f4"),
        _planes(segment_of, "<u2"),
        _planes(offset, "<u2"),
        _planes(offset + position - low, "<u2"),
        _planes(offset + shown, "<u2"),
        _planes(piece, "<u2"),
        _planes(narrow_gates, "<f2"),
        _planes(narrow_ins, "<f2"),
        *(
            part
            for wide, values in ((wide_gates, gates), (wide_ins, ins))
            for part in (_planes(wide, "<u4"), _planes(values[wide], "<f4"))
        ),
    ]
    compressor = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    return PackedExamples(
        packed=compressor.compress(b"".join(parts)) + compressor.flush(),
        sizes={
            "pieceBytes": len(parts[0]),
            "documentBytes": len(parts[1]),
            "pieces": len(pieces),
            "segments": len(segment_text),
            "positions": positions,
            "wideGates": len(wide_gates),
            "wideIns": len(wide_ins),
        },
        lists=[end - head for _, head, end, _ in spans],
        value=value,
        post=post,
        text=text,
        position=position,
        first=first,
        peak=first + position - low,
        end=first + shown,
        piece=piece,
        pieces=pieces,
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
    texts: Texts,
    vocabulary: Vocabulary,
) -> tuple[Integers, list[str], Integers]:
    """The piece of each position as an index, the table of pieces, and the token id of each entry of the table.

    A token that splits a character has an entry for each text that it shows.
    """
    unique, piece, count = np.unique(tokens, return_inverse=True, return_counts=True)
    # Frequent pieces get small numbers: that leaves the high bytes almost constant.
    by_count = np.argsort(-count, kind="stable")
    rank = np.empty_like(by_count)
    rank[by_count] = np.arange(len(by_count))
    piece = rank[piece]
    identities = unique[by_count].tolist()
    pieces = [vocabulary[identity] for identity in identities]
    decoder = vocabulary.decoder
    runs = decoder.split_runs(tokens)
    if runs:
        entries: dict[tuple[int, str], int] = {}
        bounds = [*segment_first.tolist(), len(tokens)]
        for run_first, run_end in runs:
            place = run_first
            while place < run_end:
                segment = int(np.searchsorted(segment_first, place, side="right")) - 1
                end = min(run_end, bounds[segment + 1])
                text = texts.tokens_of(int(segment_text[segment]))
                begin = int(segment_low[segment]) + place - bounds[segment]
                before = max(begin - CONTEXT_TOKENS, 0)
                around = text[before : begin + (end - place) + CONTEXT_TOKENS]
                shown = decoder.pieces(around.tolist())[begin - before :]
                for at, characters in zip(range(place, end), shown, strict=False):
                    key = int(tokens[at]), visible(characters)
                    if key not in entries:
                        entries[key] = len(pieces)
                        identities.append(key[0])
                        pieces.append(key[1])
                    piece[at] = entries[key]
                place = end
    return piece, pieces, np.array(identities, dtype=np.int64)


def _narrow(values: Floats) -> tuple[npt.NDArray[np.float16], Integers]:
    """`values` in 16 bits, and the places of those that 16 bits would turn into 0 or infinity."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = values.astype(np.float16)
    # NaN stays: it marks what was not routed to the neuron's expert.
    wide = np.flatnonzero(np.isinf(narrow) | ((narrow == 0) & (values != 0)))
    narrow[wide] = 0
    return narrow, wide


def _planes(values: npt.ArrayLike, dtype: str) -> bytes:
    """`values` as `dtype`, all first bytes, then all second bytes, and so on: like bytes compress together."""
    array = np.ascontiguousarray(values, dtype=dtype)
    return array.view(np.uint8).reshape(-1, array.itemsize).T.tobytes()


def _ranges(first: Integers, length: Integers) -> Integers:
    """first[0], first[0] + 1, … (length[0] of them), first[1], …"""
    return np.repeat(first - (np.cumsum(length) - length), length) + np.arange(int(length.sum()))


def _offsets(column: pa.ListArray) -> Integers:
    offsets: Integers = column.offsets.to_numpy().astype(np.int64)
    from_zero: Integers = offsets - offsets[0]
    return from_zero
