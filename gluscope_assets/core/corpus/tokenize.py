"""Making the corpus: documents to tokenized texts, cut once into packs and shards.

What belongs here: the tokenizer's work, the choice of texts, the cut, which depends on the texts and the options alone, so that
every run forwards the same packs. What does not: reading documents (`documents`) and the finished corpus (`texts`); no model is
run here.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.arrays import offsets_of
from gluscope_assets.core.corpus import documents
from gluscope_assets.core.corpus.documents import Document
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import hash_files, hash_of, write_parquet
from gluscope_assets.core.model.checkpoint import Checkpoint
from gluscope_assets.core.model.loading import load_tokenizer
from gluscope_assets.core.options import CorpusOptions
from gluscope_assets.core.progress import Progress, no_progress
from gluscope_assets.core.tables import schema
from gluscope_assets.core.tables.schema import table_of

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


def read_documents(options: CorpusOptions) -> Iterator[Document]:
    """The documents of a corpus source other than `tokens`, in an order that follows from them. InputError as they are read."""
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
        for field in (document.name, document.text):
            digest.update(len(field).to_bytes(8, "little"))
            digest.update(field.encode())
    return digest.hexdigest()


def tokenize_corpus(
    options: CorpusOptions,
    checkpoint: Checkpoint,
    destination: Path,
    provenance: Mapping[str, object],
    progress: Progress = no_progress,
) -> TokenizedCorpus:
    """Tokenize the source with the checkpoint's tokenizer, cut it and write `destination`.

    `provenance` goes into the file's footer. Progress counts documents. InputError if the source cannot be read, nothing is
    left of it, or `text_tokens` leaves no room beside the tokenizer's special tokens.
    """
    tokenizer = load_tokenizer(checkpoint)
    texts = _read_token_file(options) if options.source == "tokens" else _tokenize(options, tokenizer, progress)
    if options.max_texts is not None and len(texts) > options.max_texts:
        smallest = sorted(range(len(texts)), key=lambda index: _selection_hash(texts[index]))[: options.max_texts]
        texts = [texts[index] for index in sorted(smallest)]
    if not texts:
        raise InputError(f"The corpus {options.path or options.source} is empty; it needs at least one document with text.")
    lengths = np.array([len(text.token) for text in texts])
    token = np.concatenate([text.token for text in texts])
    packs = cut_into_packs(lengths, options.pack_tokens)
    offsets = offsets_of(lengths)
    special = sorted(int(token_id) for token_id in tokenizer.all_special_ids)
    content_hash = hashlib.sha256(
        b"".join(array.tobytes() for array in (token, offsets, packs)) + hash_of(special, options.shard_packs).encode()
    ).hexdigest()
    table = table_of(
        schema.TEXTS,
        {
            "text": np.arange(len(texts), dtype=np.int32),
            "document": [text.document for text in texts],
            "start": [text.start for text in texts],
            "token": pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(token)),
            "pack": packs,
            "shard": packs // np.int32(options.shard_packs),
        },
    )
    write_parquet(
        table,
        destination,
        {**provenance, "special_token_ids": special, "content_hash": content_hash},
        row_group_size=4096,
    )
    return TokenizedCorpus.open(destination)


def cut_into_packs(lengths: npt.NDArray[np.int64], pack_tokens: int) -> npt.NDArray[np.int32]:
    """The pack of each text, int32 [texts], from their lengths: a pack takes texts until it holds at least `pack_tokens`."""
    packs = np.empty(len(lengths), dtype=np.int32)
    pack, held = 0, 0
    for text, length in enumerate(lengths):
        if held >= pack_tokens:
            pack, held = pack + 1, 0
        packs[text] = pack
        held += int(length)
    return packs


def _tokenize(options: CorpusOptions, tokenizer: "PreTrainedTokenizerBase", progress: Progress) -> list[Text]:
    letter = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]
    wrapped = tokenizer("a", verbose=False)["input_ids"]
    at = next(i for i in range(len(wrapped)) if wrapped[i : i + len(letter)] == letter)
    prefix, suffix = wrapped[:at], wrapped[at + len(letter) :]
    room = options.text_tokens - len(prefix) - len(suffix)
    if room < 1:
        raise InputError(
            f"corpus.text_tokens is {options.text_tokens}, which leaves no room beside the tokenizer's "
            f"{len(prefix) + len(suffix)} special tokens; make it larger."
        )
    texts: list[Text] = []
    source = list(read_documents(options))
    for first in range(0, len(source), DOCUMENTS_AT_ONCE):
        batch = source[first : first + DOCUMENTS_AT_ONCE]
        encoded = tokenizer([document.text for document in batch], add_special_tokens=False, verbose=False)["input_ids"]
        for document, ids in zip(batch, encoded, strict=True):
            for start in range(0, len(ids), room):
                token = np.array([*prefix, *ids[start : start + room], *suffix], dtype=np.int32)
                texts.append(Text(document.name, start, token))
        progress(first + len(batch), len(source))
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


def _selection_hash(text: Text) -> bytes:
    return hashlib.blake2b(f"{text.document}\0{text.start}".encode(), digest_size=8).digest()
