"""Activations: one forward pass over the corpus into shards, and the merge of the shards."""

from functools import partial
from pathlib import Path

import dagster as dg

from gluscope_assets.assets.model import checkpoint_of
from gluscope_assets.assets.reporting import (
    attributes,
    column_schema,
    data_version,
    quadrant_shares,
    sample_rows,
    size_of,
)
from gluscope_assets.automation import WHEN_INPUTS_CHANGE
from gluscope_assets.core.corpus import TokenizedCorpus
from gluscope_assets.core.quadrants import QUADRANTS
from gluscope_assets.partitions import by_checkpoint, layer_partitions, partition_key
from gluscope_assets.resources import Device, ProgressDisplay, Storage
from gluscope_assets.studies.study import Study
from gluscope_assets.versions import provenance, recorded_fingerprint

GPU_POOL = "gpu"
FIRST_SHARD = Path("shard-0000", "statistics.parquet")
COUNTS = tuple(f"{quadrant}_count" for quadrant in QUADRANTS)


def build_activation_shards(study: Study) -> dg.AssetsDefinition:
    """The partial aggregates of each layer, from one forward pass for all layers asked for."""

    @dg.asset(
        **attributes(study, "activation_shards", "activations", {"pytorch", "parquet"}),
        partitions_def=layer_partitions(study),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=GPU_POOL,
        deps=[[study.name, "tokenized_corpus"], [study.name, "model_checkpoint"]],
        automation_condition=WHEN_INPUTS_CHANGE,
        description="Exact partial aggregates of each layer, with the windows of their examples and a sample of positions.",
    )
    def activation_shards(
        context: dg.AssetExecutionContext, storage: Storage, device: Device, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        from gluscope_assets.core.collect import collect

        folder, fingerprints = storage.of(study), []
        corpus, corpus_fingerprint = TokenizedCorpus.open(folder.corpus), recorded_fingerprint(folder.corpus)
        for key, layers in by_checkpoint(context.partition_keys).items():
            checkpoint = checkpoint_of(study, key)
            inputs = {"tokenized_corpus": corpus_fingerprint, "weights": checkpoint.weights_hash}
            footer = provenance(study, "activation_shards", inputs, checkpoint)
            fingerprints.append(footer["fingerprint"])
            with progress.show(context, f"{checkpoint.name}: activations", "tokens") as show:
                report = collect(
                    checkpoint, study.model.dtype, corpus, layers, study.model.layers, study.collection,
                    partial(folder.shards, key), footer, device.resolve(), show,
                )  # fmt: skip
            for layer in layers:
                metadata = {
                    "fingerprint": str(footer["fingerprint"]),
                    "tokens": report.tokens,
                    "texts": report.texts,
                    "tokens per second": report.tokens / report.seconds,
                    "shards": report.shards,
                    "bytes": report.bytes[layer],
                    "path": dg.MetadataValue.path(folder.shards(key, layer)),
                    **quadrant_shares(report.frequency[layer]),
                    "dagster/column_schema": column_schema(folder.shards(key, layer) / FIRST_SHARD),
                }
                context.add_asset_metadata(metadata, partition_key=partition_key(key, layer))
        return dg.MaterializeResult(data_version=data_version(fingerprints))

    return activation_shards


def build_quadrant_aggregates(study: Study) -> dg.AssetsDefinition:
    """The merge of each layer's shards."""

    @dg.asset(
        **attributes(study, "quadrant_aggregates", "activations", {"polars", "parquet"}),
        partitions_def=layer_partitions(study),
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[[study.name, "activation_shards"]],
        automation_condition=WHEN_INPUTS_CHANGE,
        description="One row a neuron: a light table of statistics, a heavy one of examples with windows, and the sample.",
    )
    def quadrant_aggregates(
        context: dg.AssetExecutionContext, storage: Storage, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        from gluscope_assets.core.aggregate import merge_layers

        folder, fingerprints = storage.of(study), []
        for key, layers in by_checkpoint(context.partition_keys).items():
            checkpoint = checkpoint_of(study, key)
            shards = {layer: recorded_fingerprint(folder.shards(key, layer) / FIRST_SHARD) for layer in layers}
            footers = {
                layer: provenance(study, "quadrant_aggregates", {"activation_shards": shards[layer]}, checkpoint)
                for layer in layers
            }
            with progress.show(context, f"{checkpoint.name}: aggregates", "layers") as show:
                reports = merge_layers(
                    layers, partial(folder.shards, key), partial(folder.aggregate, key), footers.__getitem__, show
                )
            for layer, report in reports.items():
                destination = folder.aggregate(key, layer)
                fingerprints.append(footers[layer]["fingerprint"])
                metadata = {
                    "fingerprint": str(footers[layer]["fingerprint"]),
                    "neurons": report.neurons,
                    "counted tokens": report.positions,
                    "bytes": size_of(destination),
                    "path": dg.MetadataValue.path(destination),
                    **quadrant_shares(report.frequency),
                    "dagster/row_count": report.neurons,
                    "dagster/column_schema": column_schema(destination / "statistics.parquet"),
                    "rows": sample_rows(destination / "statistics.parquet", ["neuron", "zero", *COUNTS]),
                }
                context.add_asset_metadata(metadata, partition_key=partition_key(key, layer))
        return dg.MaterializeResult(data_version=data_version(fingerprints))

    return quadrant_aggregates
