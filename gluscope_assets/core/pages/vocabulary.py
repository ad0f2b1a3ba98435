"""The pieces that pages show tokens as: in UTF-8 for packed examples, as text for readable ones, as HTML for chips.

How a tokenizer decodes its tokens belongs to `core.corpus.decoder`.
"""

import html
from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np

from gluscope_assets.core.arrays import Integers, ranges
from gluscope_assets.core.corpus.decoder import TokenDecoder, visible
from gluscope_assets.core.pages.windows import TokensOf

MOST_SPLIT = 1 << 16
"""Texts whose split characters are kept in memory."""


class Vocabulary:
    """Token pieces as pages show them, made once and kept."""

    def __init__(self, decoder: TokenDecoder) -> None:
        self.decoder = decoder
        self.piece: Callable[[int], str] = cache(lambda token: visible(decoder.piece(token)))
        """Gives the piece of one token."""
        self.chip: Callable[[int], str] = cache(lambda token: html.escape(self.piece(token).replace("\n", "")))
        """Gives the piece of one token as HTML, on one line."""
        self.split_pieces: Callable[[TokensOf, int], dict[int, str]] = lru_cache(MOST_SPLIT)(self._split_pieces)
        """Gives, by position, the pieces of one text's tokens that split characters, whole as their neighbours make them."""
        self._bytes = np.zeros(0, dtype=np.uint8)
        self._first = np.zeros(len(decoder.split), dtype=np.int64)
        self._length = np.zeros(len(decoder.split), dtype=np.int64)

    def encoded(self, tokens: Integers) -> bytes:
        """The pieces of `tokens`, [tokens] without repetition, in UTF-8, a zero byte after each."""
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
        pieces = [f"{self.piece(token)}\0".encode("utf-8", "replace") for token in tokens.tolist()]
        length = np.array([len(piece) for piece in pieces])
        self._first[tokens] = len(self._bytes) + np.cumsum(length) - length
        self._length[tokens] = length
        self._bytes = np.concatenate([self._bytes, np.frombuffer(b"".join(pieces), dtype=np.uint8)])

    def _split_pieces(self, tokens_of: TokensOf, text: int) -> dict[int, str]:
        tokens = tokens_of(text)
        return {
            position: visible(piece)
            for first, end in self.decoder.split_runs(tokens)
            for position, piece in enumerate(self.decoder.whole_pieces(tokens[first:end].tolist()), first)
        }
