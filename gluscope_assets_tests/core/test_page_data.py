"""Packed examples, unpacked again as the page's script does it, against the windows that went in."""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from gluscope_assets.core.page_data import PackedExamples, SampleWindows, ShownTexts, Vocabulary, Windows, pack_examples
from gluscope_assets.core.tokens import TokenDecoder

LENGTH = 60
WORDS = 50


@dataclass
class Texts:
    """Texts whose tokens are random words."""

    count: int = 5
    special_token_ids: tuple[int, ...] = ()

    def tokens_of(self, text: int) -> np.ndarray:
        return np.random.default_rng(text).integers(0, WORDS, LENGTH).astype(np.int32)

    def document_of(self, text: int) -> str:
        return f"document {text % 2}"

    def start_of(self, text: int) -> int:
        return 1000 * text


def vocabulary() -> Vocabulary:
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(WORDS)}, unk_token="w0"))
    return Vocabulary(TokenDecoder(tokenizer))


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
    for name, dtype, count in (
        ("token", "<u4", sizes["pieces"]),
        ("segment_text", "<u4", sizes["segments"]),
        ("text_start", "<u4", sizes["segments"]),
        ("segment_start", "<u4", sizes["segments"]),
        ("segment_document", "<u2", sizes["segments"]),
        ("segment_length", "<u2", sizes["segments"]),
        ("value", "<f4", examples),
        ("post", "<f4", examples),
        ("segment", "<u2", examples),
        ("first", "<u2", examples),
        ("peak", "<u2", examples),
        ("end", "<u2", examples),
        ("piece", "<u2", sizes["positions"]),
        ("gate", "<f2", sizes["positions"]),
        ("in", "<f2", sizes["positions"]),
    ):
        out[name] = numbers(dtype, count)
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


def windows(places: list[tuple[int, int]], texts: Texts, before: int = 7, after: int = 4) -> Windows:
    text, position = (np.array(column, dtype=np.int64) for column in zip(*places, strict=True))
    low = np.maximum(position - before, 0)
    length = np.minimum(position + after + 1, LENGTH) - low
    flat = [(t, p) for t, first, count in zip(text, low, length, strict=True) for p in range(first, first + count)]
    gate = np.array([value_of(*place) for place in flat], dtype=np.float32)
    token = np.array([texts.tokens_of(t)[p] for t, p in flat], dtype=np.int32)
    value = np.array([value_of(*place) for place in places], dtype=np.float32)
    return Windows(value, -value, text, position, low, length, token, gate, 2 * gate)


PLACES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, LENGTH - 1)), min_size=1, max_size=12)


@given(PLACES, PLACES)
def test_every_window_is_found_again(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    texts = Texts()
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
    texts = Texts()
    sampled = list(dict.fromkeys(sampled))
    text, position = (np.array(column, dtype=np.int64) for column in zip(*sampled, strict=True))
    gate = np.array([value_of(*place) for place in sampled], dtype=np.float32)
    around = SampleWindows(text, position, texts).windows(np.arange(len(sampled)), gate, 2 * gate, gate)
    found = unpack(pack_examples([windows(ranked, texts), around], ShownTexts(texts), vocabulary()))
    known = {(t, p) for t, peak in ranked for p in range(max(peak - 7, 0), min(peak + 5, LENGTH))} | set(sampled)
    starts = np.cumsum(found["segment_length"], dtype=int) - found["segment_length"]
    for segment, start in enumerate(starts):
        for offset in range(found["segment_length"][segment]):
            place = int(found["segment_text"][segment]), int(found["segment_start"][segment]) + offset
            shown = float(found["gate"][start + offset])
            assert np.isnan(shown) if place not in known else shown == value_of(*place)


def test_what_16_bits_cannot_hold_is_kept_wider() -> None:
    texts = Texts()
    given_ = windows([(0, 10)], texts, before=1, after=1)
    wide = np.array([1e5, 1e-9, -1e-12], dtype=np.float32)
    window = Windows(**{**vars(given_), "gate": wide, "in_": wide[::-1].copy()})
    found = unpack(pack_examples([window], ShownTexts(texts), vocabulary()))
    assert found["gate"].tolist() == wide.tolist()
    assert found["in"].tolist() == wide[::-1].tolist()
