"""The texts around the strongest examples, against whole texts decoded and cut."""

from hypothesis import given, settings

from gluscope_assets.core.pages.contexts import ContextPieces, contexts_of
from gluscope_assets_tests.support.random_peaks import DECODER, RandomPeaks, around, random_peaks


@settings(max_examples=60)
@given(random_peaks())
def test_contexts_of_any_texts_are_those_of_brute_force(made: RandomPeaks) -> None:
    contexts = contexts_of(made.lists, made.corpus, ContextPieces(DECODER))
    shown = contexts.texts.decode().split("\0")
    assert shown.pop() == ""
    for row, text, begin, length in zip(made.peaks, shown, contexts.peak.tolist(), contexts.length.tolist(), strict=True):
        before, peak, after = around(DECODER, made.texts[row[0][0]], row[0][1]) if row else ("", "", "")
        assert text == before + peak + after
        assert (begin, length) == (len(before.encode("utf-16-le")) // 2, len(peak.encode("utf-16-le")) // 2)
