"""Token ids to text that a person can read, a piece for each token.

Reads `tokenizer.json` and nothing else. How pieces are laid out and coloured belongs to the pages; turning text into ids
belongs to the corpus.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from gluscope_assets.core.errors import InputError

CONTEXT_TOKENS = 8
"""So many tokens on each side of a window hold the rest of any character that the window's edge splits: a character
has at most 4 bytes, a token at least one, and a token of several bytes ends within the same run."""

CONTINUATION = ""
"""The piece of a token all of whose bytes belong to a character that an earlier token carries."""

_NAMED_CONTROLS = {
    "\n": "↵\n",
    "\t": "⇥\t",
    "\x7f": "␡",
    "\u00ad": "⟨SHY⟩",
    "\u061c": "⟨ALM⟩",
    "\u200b": "⟨ZWSP⟩",
    "\u200c": "⟨ZWNJ⟩",
    "\u200d": "⟨ZWJ⟩",
    "\u200e": "⟨LRM⟩",
    "\u200f": "⟨RLM⟩",
    "\u2028": "⟨LS⟩",
    "\u2029": "⟨PS⟩",
    "\u202a": "⟨LRE⟩",
    "\u202b": "⟨RLE⟩",
    "\u202c": "⟨PDF⟩",
    "\u202d": "⟨LRO⟩",
    "\u202e": "⟨RLO⟩",
    "\u2060": "⟨WJ⟩",
    "\u2066": "⟨LRI⟩",
    "\u2067": "⟨RLI⟩",
    "\u2068": "⟨FSI⟩",
    "\u2069": "⟨PDI⟩",
    "\ufeff": "⟨BOM⟩",
}


def visible(text: str) -> str:
    """`text` with everything that has no glyph, or that moves its neighbours, replaced by a sign for it.

    A line feed becomes `↵` and the line feed itself, so that a page may break the line there or leave it out; a tab
    becomes `⇥` and a tab. Joiners between visible characters stay, because emoji and Indic scripts need them.
    """
    if text.isascii() and text.isprintable():
        return text
    out = []
    for index, character in enumerate(text):
        if character in "\u200c\u200d" and 0 < index < len(text) - 1:
            out.append(character)
        elif character in _NAMED_CONTROLS:
            out.append(_NAMED_CONTROLS[character])
        elif ord(character) < 0x20:
            out.append(chr(0x2400 + ord(character)))
        elif unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            out.append(f"⟨U+{ord(character):04X}⟩")
        elif index == 0 and unicodedata.category(character) == "Mn":
            # A mark without its letter would draw over whatever stands before it, or not at all.
            out.append("◌" + character if unicodedata.combining(character) else f"⟨U+{ord(character):04X}⟩")
        else:
            out.append(character)
    return "".join(out)


class TokenDecoder:
    """The text of every token of one tokenizer.

    Characters that the tokenizer splits over tokens are whole: the token with the character's first byte carries it,
    and tokens with the rest are `CONTINUATION`. Bytes that belong to no character show as `⟨F0⟩`. Special tokens are
    shown literally.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        settings = json.loads(tokenizer.to_str())
        components = _components([settings.get("decoder"), settings.get("pre_tokenizer")])
        byte_level = any(component.get("type") == "ByteLevel" for component in components)
        space = None if byte_level else _space_sign(settings)
        literal = {added["id"]: added["content"] for added in settings.get("added_tokens") or ()}
        vocabulary = {identity: token for token, identity in tokenizer.get_vocab(with_added_tokens=True).items()}
        size = max(vocabulary, default=-1) + 1
        self._bytes: list[bytes] = [b""] * size
        self._pieces: list[str] = [f"⟨token {identity}⟩" for identity in range(size)]
        self.split = np.zeros(size, dtype=bool)
        """bool [vocabulary]: tokens whose bytes are not whole characters, so that their piece depends on neighbours."""
        for identity, token in vocabulary.items():
            if identity in literal:
                raw = literal[identity].encode("utf-8", "replace")
            elif byte_level:
                raw = _bytes_of_byte_level(token)
            else:
                raw = _bytes_of_fallback(token, space)
            self._bytes[identity] = raw
            try:
                self._pieces[identity] = raw.decode("utf-8")
            except UnicodeDecodeError:
                self.split[identity] = True
                self._pieces[identity] = "".join(_characters(raw, [0] * len(raw), 1))

    @classmethod
    def from_folder(cls, folder: Path) -> "TokenDecoder":
        """The decoder of the tokenizer in `folder`. InputError if there is no readable `tokenizer.json`."""
        path = folder / "tokenizer.json" if folder.is_dir() else folder
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise InputError(f"{path} is not a readable tokenizer.json ({error}).") from error
        return cls(tokenizer)

    def piece(self, token: int) -> str:
        """The text of one token alone. Bytes of a split character show as `⟨F0⟩`."""
        return self._pieces[token] if 0 <= token < len(self._pieces) else f"⟨token {token}⟩"

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each of consecutive `tokens`. Their concatenation is the decoded text."""
        pieces = [self.piece(token) for token in tokens]
        for first, last in self.split_runs(np.asarray(tokens, dtype=np.int64)):
            pieces[first:last] = self.whole_pieces(tokens[first:last])
        return pieces

    def window_pieces(self, tokens: np.ndarray, start: int, count: int) -> list[str]:
        """The pieces of [start, start + count) of a whole text's `tokens`, an integer array [n].

        Characters are whole wherever the window begins and ends.
        """
        low = max(0, start - CONTEXT_TOKENS)
        return self.pieces(tokens[low : start + count + CONTEXT_TOKENS].tolist())[start - low : start - low + count]

    def splits(self, tokens: np.ndarray) -> bool:
        """Whether any of `tokens`, an integer array [n], is not whole characters."""
        return bool(self.split[tokens[(tokens >= 0) & (tokens < len(self.split))]].any())

    def split_runs(self, tokens: np.ndarray) -> list[tuple[int, int]]:
        """[start, end) of every run of tokens that are not whole characters in `tokens`, an integer array [n]."""
        valid = (tokens >= 0) & (tokens < len(self.split))
        marked = np.zeros(len(tokens) + 2, dtype=np.int8)
        marked[1:-1] = valid & self.split[np.where(valid, tokens, 0)] if len(self.split) else False
        edges = np.flatnonzero(np.diff(marked))
        return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

    def whole_pieces(self, tokens: Sequence[int]) -> list[str]:
        """The pieces of one run of `split` tokens, with every character at the token that holds its first byte."""
        raw = b"".join(self._bytes[token] for token in tokens)
        owners = [index for index, token in enumerate(tokens) for _ in self._bytes[token]]
        return _characters(raw, owners, len(tokens))


def _characters(raw: bytes, owners: Sequence[int], count: int) -> list[str]:
    """Decode `raw`, giving each character to the owner of its first byte; `owners[i] < count` owns byte i."""
    pieces = [""] * count
    first = 0
    while first < len(raw):
        lead = raw[first]
        length = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        try:
            text = raw[first : first + length].decode("utf-8")
        except UnicodeDecodeError:
            text, length = f"⟨{lead:02X}⟩", 1
        pieces[owners[first]] += text
        first += length
    return pieces


def _components(settings: object) -> Iterator[dict[str, object]]:
    """Every component of a tokenizer's decoder, normalizer or pre-tokenizer, sequences opened."""
    if isinstance(settings, dict):
        yield settings
        for value in settings.values():
            yield from _components(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from _components(value)


def _space_sign(settings: dict[str, object]) -> str | None:
    """The sign that stands for a space in the vocabulary (`▁`), or None."""
    for component in _components(settings.get("decoder")):
        if component.get("type") == "Metaspace":
            return str(component.get("replacement", "▁"))
        pattern = component.get("pattern")
        if component.get("type") == "Replace" and component.get("content") == " " and isinstance(pattern, dict):
            return str(pattern.get("String", "▁"))
    return None


def _bytes_of_fallback(token: str, space: str | None) -> bytes:
    if re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
        return bytes.fromhex(token[3:5])
    return (token.replace(space, " ") if space else token).encode("utf-8", "replace")


def _byte_level_alphabet() -> dict[str, int]:
    """The character that byte-level BPE writes for each byte: printable Latin-1 for itself, the others from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_LEVEL = _byte_level_alphabet()


def _bytes_of_byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTE_LEVEL[character] for character in token)
    except KeyError:
        return token.encode("utf-8", "replace")
