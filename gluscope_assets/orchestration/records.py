"""What assets report to Dagster: their common attributes, column schemas, sample rows.

Numbers are taken from files and reports; nothing is computed that is stored.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow.parquet as pq

from gluscope_assets.core.files import hash_of
from gluscope_assets.core.quadrants import QUADRANTS
from gluscope_assets.core.serve.server import HOST, PORT
from gluscope_assets.study.fingerprints import code_version
from gluscope_assets.study.study import Study

OWNERS = ["team:gluscope"]


def attributes(study: Study, stage: str, group: str, kinds: set[str]) -> dict[str, Any]:
    """What every asset of a study has."""
    return {
        "key": dg.AssetKey([study.name, stage]),
        "group_name": group,
        "kinds": kinds,
        "owners": OWNERS,
        "code_version": code_version(study, stage),
    }


def data_version(fingerprints: Iterable[object]) -> dg.DataVersion:
    """The data version of a run: its fingerprint, or a hash of them where the run is about several checkpoints."""
    distinct = sorted({str(fingerprint) for fingerprint in fingerprints})
    return dg.DataVersion(distinct[0] if len(distinct) == 1 else hash_of(*distinct)[:32])


def made_from(footer: Mapping[str, object]) -> dg.JsonMetadataValue:
    """The fingerprints of what a stage read, by name, from the provenance in its files."""
    inputs = footer["inputs"]
    assert isinstance(inputs, dict)
    return dg.MetadataValue.json(inputs)


def column_schema(path: Path) -> dg.TableSchema:
    """The columns of a Parquet file."""
    fields = pq.read_schema(path)
    return dg.TableSchema([dg.TableColumn(field.name, str(field.type), describe_column(field.name)) for field in fields])


COLUMNS = {
    "layer": "Layer, from 0.",
    "neuron": "Neuron of the layer, from 0.",
    "mlp": "Path of the neuron's gated MLP inside the layer.",
    "expert": "The neuron's expert; null if it sees all tokens.",
    "index": "Place in its MLP or expert.",
    "routed": "Counted positions that the neuron sees.",
    "positions": "Counted positions.",
    "zero": "Counted positions where gate or in is exactly 0.",
    "text": "Row of the text in the corpus.",
    "document": "The document that the text was cut from.",
    "start": "Where the text begins in its document, in tokens.",
    "token": "Token ids.",
    "pack": "The pack that the text is forwarded in.",
    "shard": "The corpus shard of the text.",
    "orientation": "Sign of w_gate · w_in; 0 counts as +1.",
    "class": "Input-output class.",
    "atypical": "Whether cos(w_gate, w_in) does not fit the class.",
    "promoted": "Tokens that w_out raises most.",
    "suppressed": "Tokens that w_out lowers most.",
}
STATISTICS = {
    "count": "Positions in this quadrant.",
    "sum": "Sum over the positions in this quadrant.",
    "sum_of_squares": "Sum of squares over the positions in this quadrant.",
    "min": "Smallest value in this quadrant; null if it is empty.",
    "max": "Largest value in this quadrant; null if it is empty.",
}


def describe_column(name: str) -> str | None:
    """What a column holds, where its name alone does not say it."""
    if name in COLUMNS:
        return COLUMNS[name]
    if name.startswith("gate") and "_in" in name:
        return next((text for ending, text in STATISTICS.items() if name.endswith(f"_{ending}")), None)
    if name.startswith("cos_"):
        return "Cosine of w_{} and w_{}.".format(*name.removeprefix("cos_").split("_"))
    return None


def sample_rows(path: Path, columns: Sequence[str], rows: int = 5) -> dg.MarkdownMetadataValue:
    """The first rows of some columns of a Parquet file, as a table."""
    frame = pl.scan_parquet(path).select(columns).head(rows).collect()
    with pl.Config(
        tbl_formatting="MARKDOWN",
        tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True,
        fmt_str_lengths=60,
        tbl_cols=-1,
        tbl_width_chars=400,
    ):
        return dg.MetadataValue.md(str(frame))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(part.stat().st_size for part in path.rglob("*") if part.is_file())


def quadrant_shares(shares: Sequence[float]) -> dict[str, float]:
    """The share of counted positions in each quadrant as metadata that Dagster plots across partitions."""
    return {f"share of {quadrant}": float(share) for quadrant, share in zip(QUADRANTS, shares, strict=True)}


def page_links(pages: Iterable[str]) -> dg.MarkdownMetadataValue:
    """Links to pages of the site, which work while `gluscope serve` runs."""
    return dg.MetadataValue.md("\n".join(f"- [{page}](http://{HOST}:{PORT}/{page})" for page in pages))
