"""The corpus: documents to tokenized texts, cut once into packs and shards, and the class that reads them back.

Reading documents belongs to `documents`; no model is run here. The cut depends on the texts and the options alone, so
that every run forwards the same packs.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.corpus import documents
from gluscope_assets.core.corpus.documents import Document
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import hash_files, hash_of, read_provenance, require_file, write_parquet
from gluscope_assets.core.model.checkpoint import Checkpoint, load_tokenizer
from gluscope_assets.core.options import CorpusOptions
from gluscope_assets.core.progress import Progress, no_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DOCUMENTS_AT_ONCE = 64
"""Documents handed to the tokenizer together."""


@dataclass(frozen=True)
class Text:
    """One row of the corpus before it is cut into packs."""

    document: str
    start: int
    """Tokens of the document before this text's first own token."""
    token: npt.NDArray[np.int32]


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
    """[texts], the place of each text in its document, in tokens."""
    documents: pa.ChunkedArray
    """[texts], strings."""
    special_token_ids: tuple[int, ...]
    content_hash: str
    """SHA-256 over texts, cut and special tokens: what the activations depend on."""

    @classmethod
    def open(cls, path: Path) -> "TokenizedCorpus":
        """Read the file that `tokenize_corpus` wrote."""
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
        """The token ids of one text."""
        return self.token[self.offsets[text] : self.offsets[text + 1]]

    def document_of(self, text: int) -> str:
        """The name of the document that a text was cut from."""
        return str(self.documents[text].as_py())

    def start_of(self, text: int) -> int:
        """The place of a text in its document, in tokens."""
        return int(self.starts[text])

    def hash_of_shard(self, shard: int) -> str:
        """Over the texts of a shard with their numbers and packs: the same as long as texts are only appended after it."""
        texts = np.flatnonzero(self.shards == shard)
        first, end = int(texts[0]), int(texts[-1]) + 1
        tokens = self.token[self.offsets[first] : self.offsets[end]]
        digest = hashlib.sha256(hash_of(first, self.special_token_ids).encode())
        for part in (tokens, np.diff(self.offsets[first : end + 1]), self.packs[first:end]):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def packs_of_shard(self, shard: int) -> list[range]:
        """The texts of each pack of a shard, in order."""
        texts = np.flatnonzero(self.shards == shard)
        bounds = np.flatnonzero(np.diff(self.packs[texts], prepend=-1, append=-1))
        return [range(int(texts[a]), int(texts[b - 1]) + 1) for a, b in pairwise(bounds)]


def read_documents(options: CorpusOptions) -> Iterator[Document]:
    """The documents of a corpus source other than `tokens`."""
    if options.source == "standard_library":
        return documents.standard_library()
    assert options.path is not None
    if options.source == "folder":
        return documents.folder(options.path)
    return documents.jsonl(options.path, options.text_field)


def source_version(options: CorpusOptions) -> str:
    """SHA-256 over the source's documents, in hex: changes when the source's content does."""
    if options.source == "tokens":
        assert options.path is not None
        return hash_files(_token_file(options.path))
    digest = hashlib.sha256()
    for document in read_documents(options):
        for part in (document.name, document.text):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part.encode())
    return digest.hexdigest()


def tokenize_corpus(
    options: CorpusOptions,
    checkpoint: Checkpoint,
    destination: Path,
    provenance: Mapping[str, object],
    progress: Progress = no_progress,
) -> TokenizedCorpus:
    """Tokenize the source with the checkpoint's tokenizer, cut it and write `destination`.

    Progress counts documents. InputError if nothing is left of the source.
    """
    tokenizer = load_tokenizer(checkpoint)
    texts = _read_token_file(options) if options.source == "tokens" else _tokenize(options, tokenizer, progress)
    if options.max_texts is not None and len(texts) > options.max_texts:
        smallest = sorted(range(len(texts)), key=lambda index: _selection_hash(texts[index]))[: options.max_texts]
        texts = [texts[index] for index in sorted(smallest)]
    if not texts:
        raise InputError(f"The corpus {_source_name(options)} is empty; it needs at least one document with text.")
    lengths = np.array([len(text.token) for text in texts])
    token = np.concatenate([text.token for text in texts])
    packs = cut_into_packs(lengths, options.pack_tokens)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    special = sorted(int(token_id) for token_id in tokenizer.all_special_ids)
    content_hash = hashlib.sha256(
        b"".join(part.tobytes() for part in (token, offsets, packs)) + hash_of(special, options.shard_packs).encode()
    ).hexdigest()
    table = pa.table(
        {
            "text": pa.array(np.arange(len(texts), dtype=np.int32)),
            "document": pa.array([text.document for text in texts]),
            "start": pa.array(np.array([text.start for text in texts], dtype=np.int64)),
            "token": pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(token)),
            "pack": pa.array(packs),
            "shard": pa.array(packs // np.int32(options.shard_packs)),
        }
    )
    write_parquet(
        table,
        destination,
        {**provenance, "special_token_ids": special, "content_hash": content_hash},
        row_group_size=4096,
    )
    return TokenizedCorpus.open(destination)


def cut_into_packs(lengths: npt.NDArray[np.int64], pack_tokens: int) -> npt.NDArray[np.int32]:
    """The pack of each text: a pack takes texts in order until it holds at least `pack_tokens` tokens."""
    packs = np.empty(len(lengths), dtype=np.int32)
    pack, held = 0, 0
    for text, length in enumerate(lengths):
        if held >= pack_tokens:
            pack, held = pack + 1, 0
        packs[text] = pack
        held += int(length)
    return packs


def _tokenize(options: CorpusOptions, tokenizer: "PreTrainedTokenizerBase", progress: Progress) -> list[Text]:
    probe_alone = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]
    probe = tokenizer("a", verbose=False)["input_ids"]
    at = next(i for i in range(len(probe)) if probe[i : i + len(probe_alone)] == probe_alone)
    prefix, suffix = probe[:at], probe[at + len(probe_alone) :]
    room = options.text_tokens - len(prefix) - len(suffix)
    if room < 1:
        raise InputError(
            f"corpus.text_tokens is {options.text_tokens}, which leaves no room beside the tokenizer's "
            f"{len(prefix) + len(suffix)} special tokens; make it larger."
        )
    texts: list[Text] = []
    source = list(read_documents(options))
    stream = iter(source)
    done = 0
    while batch := list(islice(stream, DOCUMENTS_AT_ONCE)):
        encoded = tokenizer([document.text for document in batch], add_special_tokens=False, verbose=False)["input_ids"]
        for document, ids in zip(batch, encoded, strict=True):
            for start in range(0, len(ids), room):
                token = np.array([*prefix, *ids[start : start + room], *suffix], dtype=np.int32)
                texts.append(Text(document.name, start, token))
        done += len(batch)
        progress(done, len(source))
    return texts


def _read_token_file(options: CorpusOptions) -> list[Text]:
    assert options.path is not None
    path = _token_file(options.path)
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a Parquet file; give one with a column input_ids.") from error
    if "input_ids" not in table.column_names:
        raise InputError(f"{path} has no column input_ids; give a Parquet file with one list of token ids a row.")
    texts = []
    for row, ids in enumerate(table["input_ids"].to_pylist()):
        for start in range(0, len(ids), options.text_tokens):
            token = np.array(ids[start : start + options.text_tokens], dtype=np.int32)
            texts.append(Text(f"{path.name}:{row}", start, token))
    return texts


def _token_file(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"The corpus file {path} does not exist; set corpus.path to a Parquet file with input_ids.")
    return path


def _source_name(options: CorpusOptions) -> str:
    return str(options.path) if options.path is not None else options.source


def _selection_hash(text: Text) -> bytes:
    return hashlib.blake2b(f"{text.document}\0{text.start}".encode(), digest_size=8).digest()
