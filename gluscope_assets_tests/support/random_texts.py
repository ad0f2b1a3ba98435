"""Texts of random words for tests of packing and windows."""

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, models

from gluscope_assets.core.corpus.decoder import TokenDecoder
from gluscope_assets.core.pages.vocabulary import Vocabulary

LENGTH = 60
WORDS = 50


@dataclass
class RandomTexts:
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
