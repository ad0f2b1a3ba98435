"""The texts of the corpus as pages name and quote them.

Which tokens a text has, and where it comes from, belongs to `core.corpus`; the windows around its positions to `windows`,
the pieces that tokens are shown as to `vocabulary`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gluscope_assets.core.arrays import Integers
from gluscope_assets.core.corpus.decoder import visible
from gluscope_assets.core.pages.windows import SampleWindows

MOST_SOURCES = 1 << 16
"""Texts whose documents' names are kept in memory."""


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
        self.source_of: Callable[[int], tuple[str, int]] = lru_cache(MOST_SOURCES)(
            lambda text: (visible(texts.document_of(text)), texts.start_of(text))
        )
        """Gives the visible name of a text's document, and where the text starts in it, in tokens."""
        self._sample: SampleWindows | None = None

    def around(self, text: Integers, position: Integers) -> SampleWindows:
        """The windows around sampled positions, two arrays [sample]. What was asked for last is kept."""
        sample = self._sample
        if sample is None or not (np.array_equal(sample.text, text) and np.array_equal(sample.position, position)):
            sample = self._sample = SampleWindows(text, position, self.tokens_of)
        return sample
