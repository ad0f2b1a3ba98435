"""The texts of the corpus as pages name and quote them.

Which tokens a text has, and where it comes from, belongs to `core.corpus`; the windows around its positions to `windows`,
the pieces that tokens are shown as to `vocabulary`.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from gluscope_assets.core.corpus.decoder import visible
from gluscope_assets.core.pages.windows import Integers, SampleWindows

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
        self._texts = texts
        self._sources: dict[int, tuple[str, int]] = {}
        self._sample: SampleWindows | None = None

    def source_of(self, text: int) -> tuple[str, int]:
        """The visible name of a text's document, and where the text starts in it, in tokens."""
        source = self._sources.get(text)
        if source is None:
            if len(self._sources) == MOST_SOURCES:
                self._sources.clear()
            source = self._sources[text] = visible(self._texts.document_of(text)), self._texts.start_of(text)
        return source

    def sources(self, texts: list[int]) -> list[tuple[str, int]]:
        """`source_of` each of `texts`."""
        try:
            return [self._sources[text] for text in texts]
        except KeyError:
            return [self.source_of(text) for text in texts]

    def around(self, text: Integers, position: Integers) -> SampleWindows:
        """The windows around sampled positions, two arrays [sample]. What was asked for last is kept."""
        sample = self._sample
        if sample is None or not (np.array_equal(sample.text, text) and np.array_equal(sample.position, position)):
            sample = self._sample = SampleWindows(text, position, self.tokens_of)
        return sample
