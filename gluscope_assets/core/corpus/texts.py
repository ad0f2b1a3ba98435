"""The tokenized corpus as it is read: texts, the packs and shards that they are cut into, the documents they come from.

What belongs here: reading the file and answering questions about it. What does not: making it, which is `tokenize`'s
business, tokens as strings (`decoder`), and models: pages are made with this module, so it imports no deep-learning library.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.files import hash_of, read_provenance, require_file


@dataclass(frozen=True)
class TokenizedCorpus:
    """The tokenized texts. Texts are numbered from 0; `token` is all of them, one after the other."""

    path: Path
    token: npt.NDArray[np.int32]
    """[tokens]"""
    offsets: npt.NDArray[np.int64]
    """[texts + 1]; text i is token[offsets[i]:offsets[i + 1]]."""
    packs: npt.NDArray[np.int32]
    """[texts], the pack of each text, not decreasing."""
    shards: npt.NDArray[np.int32]
    """[texts], the corpus shard of each text, not decreasing."""
    starts: npt.NDArray[np.int64]
    """[texts], the tokens of its document before each text's own."""
    documents: pa.ChunkedArray
    """[texts], strings."""
    special_token_ids: tuple[int, ...]
    content_hash: str
    """SHA-256 over texts, cut and special tokens: what the activations depend on."""

    @classmethod
    def open(cls, path: Path) -> "TokenizedCorpus":
        """Read the file that `tokenize_corpus` wrote, mapped into memory. InputError if it is missing or no such file."""
        provenance = read_provenance(path)
        table = pq.read_table(require_file(path), memory_map=True)
        token = table["token"].combine_chunks()
        return cls(
            path=path,
            token=token.values.to_numpy(),
            offsets=token.offsets.to_numpy().astype(np.int64),
            packs=table["pack"].to_numpy(),
            shards=table["shard"].to_numpy(),
            starts=table["start"].to_numpy(),
            documents=table["document"],
            special_token_ids=tuple(provenance["special_token_ids"]),  # type: ignore[arg-type]
            content_hash=str(provenance["content_hash"]),
        )

    @property
    def n_texts(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_tokens(self) -> int:
        return len(self.token)

    @property
    def n_shards(self) -> int:
        return int(self.shards[-1]) + 1

    @cached_property
    def special(self) -> npt.NDArray[np.bool_]:
        """[tokens], whether each is a special token."""
        return np.isin(self.token, self.special_token_ids)

    @property
    def n_counted(self) -> int:
        """Tokens that are not special."""
        return int(self.n_tokens - self.special.sum())

    def tokens_of(self, text: int) -> npt.NDArray[np.int32]:
        """The token ids of one text, int32 [tokens]: a view, not a copy."""
        return self.token[self.offsets[text] : self.offsets[text + 1]]

    def document_of(self, text: int) -> str:
        """The name of the document that a text was cut from."""
        return str(self.documents[text].as_py())

    def start_of(self, text: int) -> int:
        """The tokens of its document before a text's own."""
        return int(self.starts[text])

    def hash_of_shard(self, shard: int) -> str:
        """SHA-256 in hex over a shard's texts, their numbers and packs: the same while texts are only appended after it."""
        texts = np.flatnonzero(self.shards == shard)
        first, end = int(texts[0]), int(texts[-1]) + 1
        tokens = self.token[self.offsets[first] : self.offsets[end]]
        digest = hashlib.sha256(hash_of(first, self.special_token_ids).encode())
        for array in (tokens, np.diff(self.offsets[first : end + 1]), self.packs[first:end]):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def packs_of_shard(self, shard: int) -> list[npt.NDArray[np.int64]]:
        """The texts of each pack of a shard, in order."""
        texts = np.flatnonzero(self.shards == shard)
        return np.split(texts, np.flatnonzero(np.diff(self.packs[texts])) + 1)
