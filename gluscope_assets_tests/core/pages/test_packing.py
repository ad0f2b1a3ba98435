"""Packed examples, unpacked again as the page's script does it, against the windows that went in."""

import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluscope_assets.core.pages.packing import PackedExamples, pack_examples
from gluscope_assets.core.pages.shown_texts import ShownTexts
from gluscope_assets.core.pages.windows import Windows
from gluscope_assets_tests.support.random_texts import LENGTH, RandomTexts, vocabulary


def unpack(packed: PackedExamples) -> dict[str, Any]:
    sizes, raw = packed.sizes, zlib.decompress(packed.packed, -zlib.MAX_WBITS)
    place = 0

    def take(count: int) -> bytes:
        nonlocal place
        place += count
        return raw[place - count : place]

    def numbers(dtype: str, count: int) -> np.ndarray:
        width = np.dtype(dtype).itemsize
        return np.frombuffer(take(width * count), np.uint8).reshape(width, count).T.copy().view(dtype)[:, 0]

    examples = sum(packed.lists)
    out: dict[str, Any] = {
        "pieces": take(sizes["pieceBytes"]).decode().split("\0"),
        "documents": take(sizes["documentBytes"]).decode().split("\0"),
    }
    pieces, segments, positions = (sizes[name] for name in ("pieces", "segments", "positions"))
    for dtype, parts in (
        ("<u4", {"token": pieces, "segment_text": segments, "text_start": segments, "segment_start": segments}),
        ("<f4", {"value": examples, "post": examples}),
        ("<u2", {"segment_document": segments, "segment_length": segments, "segment": examples, "first": examples,
                 "peak": examples, "end": examples, "piece": positions}),
        ("<f2", {"gate": positions, "in": positions}),
    ):  # fmt: skip
        together = numbers(dtype, sum(parts.values()))
        for name, end in zip(parts, np.cumsum(list(parts.values())).tolist(), strict=True):
            out[name] = together[end - parts[name] : end]
    for name in ("gate", "in"):
        count = sizes["wideGates" if name == "gate" else "wideIns"]
        out[name] = out[name].astype(np.float32)
        places = numbers("<u4", count)
        out[name][places] = numbers("<f4", count)
    assert place == len(raw)
    return out


def value_of(text: int, position: int) -> float:
    """gate at a position: the same in every list."""
    return float(np.float16(np.sin(1 + text * LENGTH + position)))


def windows(places: list[tuple[int, int]], texts: RandomTexts, before: int = 7, after: int = 4) -> Windows:
    text, position = (np.array(column, dtype=np.int64) for column in zip(*places, strict=True))
    low = np.maximum(position - before, 0)
    length = np.minimum(position + after + 1, LENGTH) - low
    flat = [(t, p) for t, first, count in zip(text, low, length, strict=True) for p in range(first, first + count)]
    gate = np.array([value_of(*place) for place in flat], dtype=np.float32)
    token = np.array([texts.tokens_of(t)[p] for t, p in flat], dtype=np.int32)
    value = np.array([value_of(*place) for place in places], dtype=np.float32)
    return Windows([len(places)], value, -value, text, position, low, length, token, gate, 2 * gate, valued=None)


PLACES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, LENGTH - 1)), min_size=1, max_size=12)


@given(PLACES, PLACES)
def test_every_window_comes_out_again(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    texts = RandomTexts()
    lists = [windows(first, texts), windows(second, texts, before=20)]
    packed = pack_examples(lists, ShownTexts(texts), vocabulary())
    found = unpack(packed)
    assert packed.lists == [len(first), len(second)]
    starts = np.cumsum(found["segment_length"], dtype=int) - found["segment_length"]
    for example, (text, position) in enumerate([*first, *second]):
        before, after = (7, 4) if example < len(first) else (20, 4)
        segment = found["segment"][example]
        assert found["segment_text"][segment] == text
        assert found["segment_start"][segment] + found["peak"][example] == position
        assert found["documents"][found["segment_document"][segment]] == texts.document_of(text)
        assert found["text_start"][segment] == texts.start_of(text)
        low, high = max(position - before, 0), min(position + after + 1, LENGTH)
        cells = slice(starts[segment] + found["first"][example], starts[segment] + found["end"][example])
        tokens = texts.tokens_of(text)[low:high].tolist()
        assert found["token"][found["piece"][cells]].tolist() == tokens
        assert [found["pieces"][piece] for piece in found["piece"][cells]] == [f"w{token}" for token in tokens]
        expected = np.array([value_of(text, place) for place in range(low, high)], dtype=np.float32)
        assert found["gate"][cells].tolist() == expected.tolist()
        assert found["in"][cells] == pytest.approx(2 * expected, rel=1e-3)
        assert found["post"][example] == -np.float32(value_of(text, position))


@given(PLACES, PLACES)
def test_a_sampled_position_keeps_its_value_and_knows_neighbours_from_other_lists(
    ranked: list[tuple[int, int]], sampled: list[tuple[int, int]]
) -> None:
    texts = RandomTexts()
    sampled = list(dict.fromkeys(sampled))
    text, position = (np.array(column, dtype=np.int64) for column in zip(*sampled, strict=True))
    gate = np.array([value_of(*place) for place in sampled], dtype=np.float32)
    shown_texts = ShownTexts(texts)
    around = shown_texts.around(text, position).windows([len(sampled)], np.arange(len(sampled)), gate, 2 * gate, gate)
    found = unpack(pack_examples([windows(ranked, texts), around], shown_texts, vocabulary()))
    known = {(t, p) for t, peak in ranked for p in range(max(peak - 7, 0), min(peak + 5, LENGTH))} | set(sampled)
    starts = np.cumsum(found["segment_length"], dtype=int) - found["segment_length"]
    for segment, start in enumerate(starts):
        for offset in range(found["segment_length"][segment]):
            place = int(found["segment_text"][segment]), int(found["segment_start"][segment]) + offset
            shown = float(found["gate"][start + offset])
            assert np.isnan(shown) if place not in known else shown == value_of(*place)


def test_what_16_bits_cannot_hold_is_kept_wider() -> None:
    texts = RandomTexts()
    given_ = windows([(0, 10)], texts, before=1, after=1)
    wide = np.array([1e5, 1e-9, -1e-12], dtype=np.float32)
    window = Windows(**{**vars(given_), "gate": wide, "in_": wide[::-1].copy()})
    found = unpack(pack_examples([window], ShownTexts(texts), vocabulary()))
    assert found["gate"].tolist() == wide.tolist()
    assert found["in"].tolist() == wide[::-1].tolist()
