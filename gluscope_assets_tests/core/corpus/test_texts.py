"""Reading the tokenized corpus: what it answers, what is refused, and that it needs no model's library."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.errors import InputError
from gluscope_assets_tests.support.reference import corpus_of


def test_texts_packs_and_shards_are_runs_of_the_tokens() -> None:
    corpus = corpus_of([[0, 5], [0, 6, 7], [0], [0, 8]], pack_texts=2, shard_packs=1)
    assert (corpus.n_texts, corpus.n_tokens, corpus.n_counted, corpus.n_shards) == (4, 8, 4, 2)
    assert [corpus.tokens_of(text).tolist() for text in range(4)] == [[0, 5], [0, 6, 7], [0], [0, 8]]
    assert [[pack.tolist() for pack in corpus.packs_of_shard(shard)] for shard in range(2)] == [[[0, 1]], [[2, 3]]]
    assert np.flatnonzero(corpus.special).tolist() == [0, 2, 5, 6]


def test_a_shards_hash_is_that_of_its_own_texts() -> None:
    texts = [[0, 5], [0, 6, 7], [0], [0, 8]]
    before, grown = (corpus_of(some, pack_texts=2, shard_packs=1) for some in (texts, [*texts, [0, 9]]))
    assert [grown.hash_of_shard(shard) for shard in range(2)] == [before.hash_of_shard(shard) for shard in range(2)]
    changed = corpus_of([*texts[:3], [0, 9]], pack_texts=2, shard_packs=1)
    assert changed.hash_of_shard(0) == before.hash_of_shard(0)
    assert changed.hash_of_shard(1) != before.hash_of_shard(1)


def test_reading_texts_needs_no_models_library() -> None:
    code = (
        "import sys\n"
        "import gluscope_assets.core.corpus.texts\n"
        "print([name for name in sys.modules if name in ('torch', 'transformers') or '.core.model' in name])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_files_of_another_make_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"token": [[1]]}), path)
    with pytest.raises(InputError, match="no GLUScope provenance"):
        TokenizedCorpus.open(path)
