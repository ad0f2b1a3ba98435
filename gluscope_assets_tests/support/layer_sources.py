"""The synthetic study as other processes and the server open it: by the paths of its files."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.files import read_provenance, write_parquet
from gluscope_assets.core.options import PageSelection
from gluscope_assets.core.pages.rendering import LayerSource
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
    statistics = study.folder / "aggregate" / "statistics.parquet"
    provenance = {**read_provenance(statistics), "activation": "silu"}
    write_parquet(pq.read_table(statistics), statistics, provenance)
    return study.folder / "texts.parquet", study.folder


def sources_of(study: Study, *selections: PageSelection) -> list[LayerSource]:
    """Two layers of one checkpoint, both made from the tables of the study."""
    site_map = replace(study.site_map(), pages=selections) if selections else study.site_map()
    return [
        LayerSource(
            checkpoint_key=KEY,
            layer=layer,
            aggregate=study.folder / "aggregate",
            weights=study.folder / "layer-00.parquet",
            site_map=site_map,
            corpus=study.folder / "texts.parquet",
            tokenizer=study.folder,
        )
        for layer in range(2)
    ]
