"""What assets report to Dagster: their common attributes, column schemas, sample rows.

Numbers are taken from files and reports; nothing is computed that is stored.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow.parquet as pq

from gluscope_assets.core.files import hash_of
from gluscope_assets.core.quadrants import QUADRANTS
from gluscope_assets.serving import HOST, PORT
from gluscope_assets.studies.study import Study
from gluscope_assets.versions import code_version

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


def column_schema(path: Path) -> dg.TableSchema:
    """The columns of a Parquet file."""
    return dg.TableSchema([dg.TableColumn(field.name, str(field.type)) for field in pq.read_schema(path)])


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
