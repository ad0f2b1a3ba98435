"""The position sample: the same for every layer, spread evenly, chosen by hash alone."""

import numpy as np
import pytest

from gluscope_assets.core.corpus import sample as sample_module
from gluscope_assets.core.corpus.sample import choose_sample, position_hash
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets_tests.support.reference import corpus_of


def test_the_sample_is_spread_evenly() -> None:
    corpus = corpus_of([[1] * 100] * 200)
    sample = choose_sample(corpus, CollectionOptions(sample_positions=2000))
    tenths = np.bincount(sample.text // 20, minlength=10)
    assert abs(tenths - 200).max() < 5 * np.sqrt(200)


def test_choosing_part_by_part_is_choosing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = corpus_of([[1, 0, *range(2, 2 + length)] for length in range(40)])
    at_once = choose_sample(corpus, CollectionOptions(sample_positions=50))
    monkeypatch.setattr(sample_module, "TOKENS_AT_ONCE", 64)
    by_parts = choose_sample(corpus, CollectionOptions(sample_positions=50))
    counted = [(t, p) for t in range(40) for p, token in enumerate(corpus.tokens_of(t)) if token != 0]
    smallest = sorted(position_hash(*(np.array(part) for part in zip(*counted, strict=True))).tolist())[:50]
    for sample in (at_once, by_parts):
        assert sorted(sample.hash.tolist()) == smallest
        assert list(zip(sample.text, sample.position, strict=True)) == sorted(zip(sample.text, sample.position, strict=True))


def test_the_positions_of_some_texts() -> None:
    corpus = corpus_of([[1] * 10] * 5)
    sample = choose_sample(corpus, CollectionOptions(sample_positions=20))
    chosen = sample.of_texts(np.array([3, 1]))
    assert chosen.text.tolist() == [3] * int((sample.text == 3).sum()) + [1] * int((sample.text == 1).sum())
    assert len(sample.of_texts(np.array([], dtype=np.int32)).hash) == 0


def test_hashes_do_not_collide() -> None:
    text, position = np.meshgrid(np.arange(300), np.arange(300))
    assert len(np.unique(position_hash(text.ravel(), position.ravel()))) == 300 * 300
