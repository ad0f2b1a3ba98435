"""Tokens as text: nothing is lost, nothing is a replacement character, what has no glyph gets a sign."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from gluscope_assets.core.corpus.decoder import CONTEXT_TOKENS, CONTINUATION, TokenDecoder, visible
from gluscope_assets.core.errors import InputError
from gluscope_assets_tests.support.synthetic import byte_level_tokenizer

BYTE_LEVEL = byte_level_tokenizer()


def byte_fallback_tokenizer() -> Tokenizer:
    """A SentencePiece-like tokenizer: `▁` for a space, `<0x41>` for bytes that no piece holds."""
    pieces = ["<unk>", *[f"<0x{byte:02X}>" for byte in range(256)], "▁", "▁the", "a", "b", "é", "▁b"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


@given(st.text())
def test_pieces_join_to_the_text(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    ids = BYTE_LEVEL.encode(text).ids
    pieces = TokenDecoder(BYTE_LEVEL).pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text


def test_a_split_character_is_whole_at_its_first_token() -> None:
    ids = BYTE_LEVEL.encode("😀").ids
    pieces = TokenDecoder(BYTE_LEVEL).pieces(ids)
    assert len(ids) > 1
    assert pieces == ["😀", *[CONTINUATION] * (len(ids) - 1)]
    assert len(ids) <= CONTEXT_TOKENS


def test_half_a_character_shows_its_bytes() -> None:
    ids = BYTE_LEVEL.encode("😀").ids
    pieces = TokenDecoder(BYTE_LEVEL).pieces(ids[:1])
    assert "\ufffd" not in pieces[0]
    assert pieces[0].startswith("⟨F0⟩")


def test_tokens_that_hold_only_part_of_a_character_are_decoded_with_their_neighbours() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=262, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    # Merges of the first bytes of several characters: a token of two bytes that is no character.
    tokenizer.train_from_iterator(["日旧旦" * 20], trainer)
    ids = tokenizer.encode("日旦旧").ids
    decoder = TokenDecoder(tokenizer)
    assert any(len(token) == 2 for token in map(tokenizer.id_to_token, ids))
    assert "".join(decoder.pieces(ids)) == "日旦旧"


def test_sentencepiece_spaces_and_byte_fallback() -> None:
    tokenizer = byte_fallback_tokenizer()
    decoder = TokenDecoder(tokenizer)
    ids = [tokenizer.token_to_id(piece) for piece in ("▁the", "▁b", "<0xE6>", "<0x97>", "<0xA5>", "é")]
    assert decoder.pieces(ids) == [" the", " b", "日", CONTINUATION, CONTINUATION, "é"]


def test_unknown_ids_are_named() -> None:
    assert TokenDecoder(BYTE_LEVEL).pieces([10**6]) == ["⟨token 1000000⟩"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a b", "a b"), ("\n", "↵\n"), ("\t", "⇥\t"), ("\u202e", "⟨RLO⟩"), ("\x00", "␀"), ("\u200b", "⟨ZWSP⟩"), ("日本", "日本")],
)
def test_what_has_no_glyph_gets_a_sign(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_folder_without_a_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer.json is not a readable") as raised:
        TokenDecoder.from_folder(tmp_path)
    assert "\n" not in str(raised.value)
