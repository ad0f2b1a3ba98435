"""The text around the strongest example of each quadrant of all neurons of a layer, in bulk, as the explorer searches it.

Packing into a script belongs to `explorer_columns`, which states the format; texts on a neuron's page to `neuron_view`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gluscope_assets.core.arrays import Integers
from gluscope_assets.core.corpus.decoder import TokenDecoder, visible
from gluscope_assets.core.pages.shown_texts import Texts
from gluscope_assets.core.tables.examples import ExampleLists

TOKENS_BEFORE, TOKENS_AFTER = 24, 12
"""Tokens of a context before and after its peak."""


class ContextPieces:
    """Token pieces as contexts show them, as Arrow strings with their lengths."""

    def __init__(self, decoder: TokenDecoder) -> None:
        self.decoder = decoder
        self.shown = shown_pieces(decoder)
        self.strings = pa.array([*self.shown, "\0"])
        self.units = np.array([*map(_utf16_units, self.shown), 1], dtype=np.int64)
        self.end = len(self.shown)
        """The index of the NUL that closes a text."""


def shown_pieces(decoder: TokenDecoder) -> list[str]:
    """The piece of each token of the vocabulary, in the order of ids, on one line."""
    return [visible(decoder.piece(token)).replace("\n", "") for token in range(len(decoder.split))]


def _utf16_units(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text)


@dataclass(frozen=True)
class Contexts:
    """The contexts of one quadrant, of some neurons."""

    post: npt.NDArray[np.float32]
    """NaN where a neuron has no example."""
    peak: Integers
    """The first UTF-16 unit of the peak's piece in its text."""
    length: Integers
    """The UTF-16 units of that piece. These three are [neurons]."""
    texts: bytes
    """In UTF-8, each text closed by NUL."""


def contexts_of(peaks: ExampleLists, corpus: Texts, pieces: ContextPieces) -> Contexts:
    """The contexts of the first example of each neuron's list: the strongest."""
    neurons = len(peaks.first) - 1
    held = np.flatnonzero(np.diff(peaks.first))
    best = peaks.first[held]
    text, position = peaks["text"][best], peaks["position"][best]
    token, left, right = _tokens_around(corpus, text, position)
    # Each window is closed by NUL, and a neuron without an example is that NUL alone.
    window = np.zeros(neurons, dtype=np.int64)
    window[held] = left + right
    begin = np.cumsum(window + 1) - (window + 1)
    index = np.full(int((window + 1).sum()), pieces.end, dtype=np.int64)
    inside = np.ones(len(index), dtype=bool)
    inside[begin + window] = False
    index[inside] = token
    strings, units = _with_exceptions(index, inside, held, begin, left, text, position, corpus, pieces)
    _, offsets, characters = strings.take(pa.array(index)).buffers()
    before = np.concatenate([[0], np.cumsum(units[index])])
    post = np.full(neurons, np.nan, dtype=np.float32)
    peak, length = np.zeros((2, neurons), dtype=np.int64)
    at = begin[held] + left
    post[held] = peaks["post"][best]
    peak[held], length[held] = before[at] - before[begin[held]], units[index[at]]
    # A neuron has a NUL at least, so that only a batch of none has no characters.
    texts = characters.to_pybytes()[: np.frombuffer(offsets, np.int32)[len(index)]] if neurons else b""
    return Contexts(post, peak, length, texts)


def _tokens_around(corpus: Texts, text: Integers, position: Integers) -> tuple[Integers, Integers, Integers]:
    """The tokens of the windows around positions, one window after the other; how many lie before each, and from it on."""
    windows: list[npt.NDArray[Any]] = [np.zeros(0, dtype=np.int64)]
    before, after = np.zeros((2, len(text)), dtype=np.int64)
    for row, (number, peak) in enumerate(zip(text.tolist(), position.tolist(), strict=True)):
        low = max(peak - TOKENS_BEFORE, 0)
        window = corpus.tokens_of(number)[low : peak + TOKENS_AFTER + 1]
        before[row], after[row] = peak - low, len(window) - (peak - low)
        windows.append(window)
    return np.concatenate(windows).astype(np.int64), before, after


def _with_exceptions(
    index: Integers,
    inside: npt.NDArray[np.bool_],
    held: Integers,
    begin: Integers,
    left: Integers,
    text: Integers,
    position: Integers,
    corpus: Texts,
    pieces: ContextPieces,
) -> tuple[pa.Array, Integers]:
    """Strings and their lengths for `index`, in which pieces that depend on their neighbours get indices of their own.

    These are tokens that split a character, and ids beyond the vocabulary. `index` is changed in place.
    """
    decoder = pieces.decoder
    in_vocabulary = inside & (index >= 0) & (index < pieces.end)
    unusual = inside & ~in_vocabulary
    unusual[in_vocabulary] = decoder.split[index[in_vocabulary]]
    entries: dict[str, int] = {}
    windows = np.unique(np.searchsorted(begin, np.flatnonzero(unusual), side="right") - 1)
    for neuron in windows.tolist():
        row = int(np.searchsorted(held, neuron))
        first, end = int(begin[neuron]), int(begin[neuron + 1]) - 1 if neuron + 1 < len(begin) else len(index) - 1
        low = int(position[row] - left[row])
        shown = decoder.window_pieces(corpus.tokens_of(int(text[row])), low, end - first)
        for at in (first + np.flatnonzero(unusual[first:end])).tolist():
            piece = visible(shown[at - first]).replace("\n", "")
            index[at] = entries.setdefault(piece, pieces.end + 1 + len(entries))
    if not entries:
        return pieces.strings, pieces.units
    strings = pa.concat_arrays([pieces.strings, pa.array(list(entries), pa.string())])
    return strings, np.concatenate([pieces.units, [_utf16_units(piece) for piece in entries]])
