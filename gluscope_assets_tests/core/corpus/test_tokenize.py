"""The corpus: how documents are cut into texts, packs and shards, and what is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from gluscope_assets.core.corpus.tokenize import cut_into_packs, source_version, tokenize_corpus
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import read_provenance
from gluscope_assets.core.model.checkpoint import Checkpoint
from gluscope_assets.core.options import CorpusOptions


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """A tokenizer of single letters that puts <s> before every text."""
    vocabulary = {token: number for number, token in enumerate(["<s>", "<unk>", *"abcdefghij<s>/"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder = tmp_path / "model"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>").save_pretrained(folder)
    return Checkpoint("letters", folder, "0" * 64)


def folder_of(tmp_path: Path, **texts: str) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_long_documents_give_several_texts_that_know_their_place(tmp_path: Path, checkpoint: Checkpoint) -> None:
    options = CorpusOptions(source="folder", path=folder_of(tmp_path, one="abcdefg", two="hi"), text_tokens=4)
    corpus = tokenize_corpus(options, checkpoint, tmp_path / "texts.parquet", {"study": "letters"})
    assert [len(corpus.tokens_of(text)) for text in range(corpus.n_texts)] == [4, 4, 2, 3]
    assert all(corpus.tokens_of(text)[0] == 0 for text in range(corpus.n_texts)), "every text begins with <s>"
    assert [(corpus.document_of(text), corpus.start_of(text)) for text in range(corpus.n_texts)] == [
        ("one.txt", 0), ("one.txt", 3), ("one.txt", 6), ("two.txt", 0),
    ]  # fmt: skip
    assert (corpus.n_tokens, corpus.n_counted) == (13, 9)
    assert read_provenance(corpus.path)["study"] == "letters"


def test_special_tokens_written_out_in_a_text_are_plain_text(tmp_path: Path, checkpoint: Checkpoint) -> None:
    options = CorpusOptions(source="folder", path=folder_of(tmp_path, one="<s>"))
    corpus = tokenize_corpus(options, checkpoint, tmp_path / "texts.parquet", {})
    assert corpus.tokens_of(0).tolist().count(0) == 1


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60), pack_tokens=st.integers(1, 120))
def test_packs_hold_texts_in_order_and_are_full_but_the_last(lengths: list[int], pack_tokens: int) -> None:
    packs = cut_into_packs(np.array(lengths), pack_tokens)
    assert packs[0] == 0
    assert set(np.diff(packs).tolist()) <= {0, 1}
    held = np.bincount(packs, weights=lengths)
    largest_before_last_text = held - np.array([np.array(lengths)[packs == pack][-1] for pack in range(len(held))])
    assert (held[:-1] >= pack_tokens).all()
    assert (largest_before_last_text < pack_tokens).all()


def test_appended_documents_leave_earlier_packs_alone(tmp_path: Path, checkpoint: Checkpoint) -> None:
    folder = folder_of(tmp_path, a="abcdefg", b="hij", c="abc")
    options = CorpusOptions(source="folder", path=folder, text_tokens=4, pack_tokens=5, shard_packs=1)
    before = tokenize_corpus(options, checkpoint, tmp_path / "before.parquet", {})
    version = source_version(options)
    (folder / "d.txt").write_text("defghij")
    after = tokenize_corpus(options, checkpoint, tmp_path / "after.parquet", {})
    assert after.n_texts > before.n_texts
    assert np.array_equal(after.token[: before.n_tokens], before.token)
    assert np.array_equal(after.shards[: before.n_texts], before.shards)
    assert after.content_hash != before.content_hash
    assert source_version(options) != version
    assert [list(pack) for shard in range(after.n_shards) for pack in after.packs_of_shard(shard)] == [
        np.flatnonzero(after.packs == pack).tolist() for pack in range(int(after.packs[-1]) + 1)
    ]


def test_max_texts_keeps_the_same_texts_whatever_else_there_is(tmp_path: Path, checkpoint: Checkpoint) -> None:
    folder = folder_of(tmp_path, **dict.fromkeys("abcdefgh", "abcdef" * 3))
    options = CorpusOptions(source="folder", path=folder, text_tokens=4, max_texts=5)
    kept = tokenize_corpus(options, checkpoint, tmp_path / "few.parquet", {})
    every = tokenize_corpus(options.model_copy(update={"max_texts": None}), checkpoint, tmp_path / "all.parquet", {})
    assert (kept.n_texts, every.n_texts) == (5, 48)
    names = [[(corpus.document_of(text), corpus.start_of(text)) for text in range(corpus.n_texts)] for corpus in (kept, every)]
    assert [name for name in names[1] if name in names[0]] == names[0]


def test_token_files_keep_their_rows_as_texts(tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"input_ids": [[0, 2, 3], [0], [0, 5]]}), path)
    corpus = tokenize_corpus(CorpusOptions(source="tokens", path=path), checkpoint, tmp_path / "texts.parquet", {})
    assert [corpus.tokens_of(text).tolist() for text in range(3)] == [[0, 2, 3], [0], [0, 5]]
    assert corpus.document_of(2) == "rows.parquet:2"


def test_bad_sources_are_one_sentence_and_write_nothing(tmp_path: Path, checkpoint: Checkpoint) -> None:
    rows = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"tokens": [[1]]}), rows)
    garbage = tmp_path / "garbage.parquet"
    garbage.write_text("no table")
    empty = folder_of(tmp_path, one="")
    cases = [
        (CorpusOptions(source="tokens", path=rows), "no column input_ids"),
        (CorpusOptions(source="tokens", path=tmp_path / "none.parquet"), "does not exist"),
        (CorpusOptions(source="tokens", path=garbage), "is not a Parquet file"),
        (CorpusOptions(source="folder", path=empty), "holds no text"),
        (CorpusOptions(source="folder", path=empty, text_tokens=1), "leaves no room"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message) as raised:
            tokenize_corpus(options, checkpoint, tmp_path / "out" / "texts.parquet", {})
        assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("out/*"))
