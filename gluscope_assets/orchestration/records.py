"""What assets report to Dagster and read back from it: metadata, column schemas, sample rows, records of runs.

Numbers are taken from files and reports; nothing is computed that is stored. The loop over the checkpoints and layers of a run
is here, once for all stages.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow.parquet as pq

from gluscope_assets.core.files import hash_of
from gluscope_assets.core.model.checkpoint import Checkpoint
from gluscope_assets.core.reports import StageReport, size_of
from gluscope_assets.core.serve.server import HOST, PORT
from gluscope_assets.core.tables import schema
from gluscope_assets.orchestration.partitions import by_checkpoint
from gluscope_assets.orchestration.resources import Pace, ProgressDisplay, Storage
from gluscope_assets.study.batch import LayerBatch
from gluscope_assets.study.fingerprints import batch_of, named_layer, partition_key
from gluscope_assets.study.measurement import RecordedShards
from gluscope_assets.study.registry import checkpoint_of
from gluscope_assets.study.study import Study

OWNERS = ["team:gluscope"]

DATA_VERSION_TAG = "dagster/data_version"

RECORDS_AT_ONCE = 1000

Make = Callable[[LayerBatch, Pace], Iterator[tuple[int, StageReport]]]
"""Makes a stage of some layers of one checkpoint, telling how far it is, and gives a report of each."""


def make_layers(
    context: dg.AssetExecutionContext,
    study: Study,
    storage: Storage,
    progress: ProgressDisplay,
    label: str,
    unit: str,
    make: Make,
) -> dg.MaterializeResult[None]:
    """Make a stage of the layers that a run is about, checkpoint by checkpoint, and record what is said of each.

    Progress is shown under `label`, such as activations, in the stage's `unit`, such as tokens.
    """
    stage, fingerprints = context.asset_key.path[-1], set[str]()
    for key, layers in by_checkpoint(context.partition_keys).items():
        batch = batch_of(study, storage.of(study), checkpoint_of(study, key), stage, layers)
        with progress.show(context, f"{batch.checkpoint.name}: {label}", unit) as show:
            for layer, report in make(batch, show):
                metadata = metadata_of(batch.provenance[layer], report, show)
                context.add_asset_metadata(metadata, partition_key=partition_key(key, layer))
                fingerprints.add(str(batch.provenance[layer]["fingerprint"]))
    return dg.MaterializeResult(data_version=data_version(fingerprints))


def result_of(footer: Mapping[str, object], report: StageReport, pace: Pace | None = None) -> dg.MaterializeResult[None]:
    """What a stage that has no layers hands over."""
    return dg.MaterializeResult(data_version=data_version([footer["fingerprint"]]), metadata=metadata_of(footer, report, pace))


def metadata_of(footer: Mapping[str, object], report: StageReport, pace: Pace | None = None) -> dict[str, Any]:
    """A report as Dagster shows it, with the provenance that its files have and how fast they were made."""
    inputs = footer["inputs"]
    assert isinstance(inputs, dict)
    metadata: dict[str, Any] = {
        "fingerprint": str(footer["fingerprint"]),
        "made from": dg.MetadataValue.json(inputs),
        **(pace.metadata() if pace else {}),
        **{name: dg.MetadataValue.path(value) if isinstance(value, Path) else value for name, value in report.metadata.items()},
    }
    if report.table is not None:
        metadata["dagster/row_count"] = pq.read_metadata(report.table).num_rows
        metadata["dagster/column_schema"] = column_schema(str(footer["stage"]))
    if report.table is not None and report.shown:
        metadata["rows"] = sample_rows(report.table, report.shown)
    if report.pages:
        metadata["links"] = page_links(report.pages)
    return metadata


def checkpoint_event(study: Study, checkpoint: Checkpoint) -> dg.AssetMaterialization:
    """The event that says which weights a checkpoint's partition stands for."""
    options = next(options for options in study.model.checkpoints if options.name == checkpoint.name)
    return dg.AssetMaterialization(
        asset_key=[study.name, "model_checkpoint"],
        partition=checkpoint.key,
        tags={DATA_VERSION_TAG: checkpoint.weights_hash},
        metadata={
            "weights_hash": checkpoint.weights_hash,
            "revision": options.revision or checkpoint.name,
            "source": options.repository or str(options.path),
            # Those of a repository may not be here yet.
            **({"bytes": size_of(options.path)} if options.path is not None else {}),
        },
    )


def recorded_shards(study: Study, instance: dg.DagsterInstance) -> Iterator[RecordedShards]:
    """What the instance recorded of every collection of the study's shards, the latest first."""
    for record, metadata in recorded_metadata(study, instance, "activation_shards"):
        if record.partition_key is not None:
            yield RecordedShards(*named_layer(record.partition_key), record.run_id, record.timestamp, metadata)


def recorded_metadata(
    study: Study, instance: dg.DagsterInstance, stage: str, partitions: Sequence[str] | None = None
) -> Iterator[tuple[dg.EventLogRecord, dict[str, Any]]]:
    """The materializations of a stage, or of some of its partitions, each with its metadata as values; the latest first."""
    records_filter, cursor = dg.AssetRecordsFilter(dg.AssetKey([study.name, stage]), asset_partitions=partitions), None
    while True:
        batch = instance.fetch_materializations(records_filter, limit=RECORDS_AT_ONCE, cursor=cursor)
        for record in batch.records:
            if record.asset_materialization is not None:
                yield record, {name: value.value for name, value in record.asset_materialization.metadata.items()}
        if not batch.has_more:
            return
        cursor = batch.cursor


def data_version(fingerprints: Iterable[object]) -> dg.DataVersion:
    """The data version of a run: its fingerprint, or a hash of them where the run is about several checkpoints."""
    distinct = sorted({str(fingerprint) for fingerprint in fingerprints})
    return dg.DataVersion(distinct[0] if len(distinct) == 1 else hash_of(*distinct)[:32])


def column_schema(stage: str) -> dg.TableSchema:
    """The columns of the table that a stage makes, as they are declared."""
    table = {
        "tokenized_corpus": schema.TEXTS,
        "neuron_weights": schema.WEIGHTS,
        "activation_shards": schema.STATISTICS,
        "quadrant_aggregates": schema.STATISTICS,
    }[stage]
    return dg.TableSchema([dg.TableColumn(one.name, str(one.type), one.description) for one in table.stored])


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


def page_links(pages: Iterable[str]) -> dg.MarkdownMetadataValue:
    """Links to pages of the site, which work while `gluscope serve` runs."""
    return dg.MetadataValue.md("\n".join(f"- [{page}](http://{HOST}:{PORT}/{page})" for page in pages))
