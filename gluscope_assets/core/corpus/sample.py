"""The position sample: which positions of a corpus are kept for distributions and for examples that are not extreme.

Positions are chosen by a hash of text and position, so the sample is the same for every layer, neuron and checkpoint
and depends on no order of work. Reading gate and in at these positions belongs to `reduction`.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from gluscope_assets.core.arrays import ranges
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.options import CollectionOptions

TOKENS_AT_ONCE = 1 << 18
"""Positions hashed together, so that choosing needs no more memory for a larger corpus."""


@dataclass(frozen=True)
class Sample:
    """The sampled positions of a corpus, by text, then position. All arrays are [sampled positions]."""

    hash: npt.NDArray[np.uint64]
    """`position_hash` of text and position."""
    text: npt.NDArray[np.int32]
    """Not decreasing."""
    position: npt.NDArray[np.int32]

    def take(self, chosen: npt.NDArray[np.integer]) -> "Sample":
        """The positions with these indices, in their order."""
        return Sample(self.hash[chosen], self.text[chosen], self.position[chosen])

    def of_texts(self, texts: npt.NDArray[np.integer]) -> "Sample":
        """The sampled positions in `texts`, text by text in the order given."""
        first, end = np.searchsorted(self.text, texts, "left"), np.searchsorted(self.text, texts, "right")
        return self.take(ranges(first, end - first))


def position_hash(text: npt.NDArray[np.integer], position: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    """A hash of (text, position) without collisions: SplitMix64's finalizer over the two packed into 64 bits.

    Both are non-negative integers below 2^32, of one shape, which the hash has too. Source: Steele, Lea and Flood 2014, Fast
    splittable pseudorandom number generators.
    """
    with np.errstate(over="ignore"):
        z = (text.astype(np.uint64) << np.uint64(32)) | position.astype(np.uint64)
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def choose_sample(corpus: TokenizedCorpus, options: CollectionOptions) -> Sample:
    """The counted positions with the smallest hashes, at most `options.sample_positions`."""
    chosen = Sample(np.zeros(0, np.uint64), np.zeros(0, np.int32), np.zeros(0, np.int32))
    for more in _positions(corpus, options.count_special_tokens):
        both = Sample(*(np.concatenate(arrays) for arrays in zip(astuple(chosen), astuple(more), strict=True)))
        chosen = both.take(np.sort(np.argsort(both.hash)[: options.sample_positions]))
    return chosen


def _positions(corpus: TokenizedCorpus, count_special_tokens: bool) -> Iterator[Sample]:
    """All counted positions with their hashes, some whole texts at a time."""
    bounds = np.searchsorted(corpus.offsets, np.arange(0, corpus.n_tokens, TOKENS_AT_ONCE))
    for first, end in zip(bounds, [*bounds[1:], corpus.n_texts], strict=True):
        offsets = corpus.offsets[first : end + 1]
        text = np.repeat(np.arange(first, end, dtype=np.int32), np.diff(offsets))
        position = (np.arange(offsets[0], offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))).astype(np.int32)
        if not count_special_tokens:
            counted = ~corpus.special[offsets[0] : offsets[-1]]
            text, position = text[counted], position[counted]
        yield Sample(position_hash(text, position), text, position)
