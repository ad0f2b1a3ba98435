"""Peaks of random texts, as tables hold them, and the texts around them by brute force."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from gluscope_assets.core.corpus.decoder import TokenDecoder, visible
from gluscope_assets.core.pages.contexts import TOKENS_AFTER, TOKENS_BEFORE
from gluscope_assets.core.tables.examples import ExampleLists
from gluscope_assets_tests.support.synthetic import Corpus, byte_level_tokenizer

DECODER = TokenDecoder(byte_level_tokenizer())
TOKENS = st.integers(0, len(DECODER.split) + 3)


def around(decoder: TokenDecoder, tokens: Sequence[int], position: int) -> tuple[str, str, str]:
    """A context by brute force: the whole text decoded, then cut."""
    pieces = [visible(piece).replace("\n", "") for piece in decoder.pieces([int(token) for token in tokens])]
    low = max(position - TOKENS_BEFORE, 0)
    after = pieces[position + 1 : position + TOKENS_AFTER + 1]
    return "".join(pieces[low:position]), pieces[position], "".join(after)


@dataclass
class RandomPeaks:
    """Lists of peaks of some neurons, one of which may have none."""

    texts: list[list[int]]
    peaks: list[list[tuple[int, int]]]
    """Of each neuron, (text, position)."""

    @property
    def corpus(self) -> Corpus:
        return Corpus([np.array(text, dtype=np.int32) for text in self.texts])

    @property
    def lists(self) -> ExampleLists:
        flat = np.array([peak for row in self.peaks for peak in row], dtype=np.int64).reshape(-1, 2)
        fields = {"post": np.arange(len(flat), dtype=np.float32), "text": flat[:, 0].copy(), "position": flat[:, 1].copy()}
        return ExampleLists(np.cumsum([0, *map(len, self.peaks)]), np.zeros(len(flat) + 1, dtype=np.int64), fields)


@st.composite
def random_peaks(draw: st.DrawFn) -> RandomPeaks:
    texts = draw(st.lists(st.lists(TOKENS, min_size=1, max_size=90), min_size=1, max_size=4))
    chosen = draw(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 89)), max_size=5), min_size=1, max_size=6))
    return RandomPeaks(
        texts, [[(text % len(texts), position % len(texts[text % len(texts)])) for text, position in row] for row in chosen]
    )
