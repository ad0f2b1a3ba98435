"""The synthetic study as other processes and the server open it: by the paths of its files."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from gluscope_assets.core.files import write_parquet
from gluscope_assets.core.options import PageSelection
from gluscope_assets.core.pages.layer_source import LayerSource
from gluscope_assets_tests.support.synthetic import DOCUMENTS, Study

KEY = "late-1111111"


def write_inputs(study: Study) -> tuple[Path, Path]:
    """What a synthetic study holds in memory as files that another process can open: its corpus and its tokenizer."""
    texts = study.corpus.texts
    table = pa.table(
        {
            "document": pa.array([DOCUMENTS[text % len(DOCUMENTS)] for text in range(len(texts))]),
            "start": pa.array([100 * text for text in range(len(texts))], pa.int64()),
            "token": pa.array([tokens.tolist() for tokens in texts], pa.list_(pa.int32())),
            "pack": pa.array([0] * len(texts), pa.int32()),
            "shard": pa.array([0] * len(texts), pa.int32()),
        }
    )
    write_parquet(table, study.folder / "texts.parquet", {"special_token_ids": [0], "content_hash": "made-up"})
    (study.folder / "tokenizer.json").write_text(study.tokenizer.to_str())
    return study.folder / "texts.parquet", study.folder


def sources_of(study: Study, *selections: PageSelection) -> list[LayerSource]:
    """Two layers of one checkpoint, both made from the tables of the study."""
    site_map = replace(study.site_map(), pages=selections) if selections else study.site_map()
    return [study.source(KEY, layer, site_map) for layer in range(2)]
