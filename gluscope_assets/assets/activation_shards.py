"""Activations: one forward pass over the corpus into shards, and the merge of the shards."""

import os
import platform
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version

import dagster as dg

import gluscope_assets
from gluscope_assets.assets.neuron_weights import checkpoint_of
from gluscope_assets.core.quadrants import QUADRANTS
from gluscope_assets.orchestration.automation import WHEN_INPUTS_CHANGE
from gluscope_assets.orchestration.partitions import by_checkpoint, layer_partitions, partition_key
from gluscope_assets.orchestration.records import (
    attributes,
    column_schema,
    data_version,
    quadrant_shares,
    sample_rows,
    size_of,
)
from gluscope_assets.orchestration.resources import GPU_POOL, Device, ProgressDisplay, Storage
from gluscope_assets.orchestration.retries import tried_again_if_transient
from gluscope_assets.study.fingerprints import fingerprint, provenance, recorded_fingerprint
from gluscope_assets.study.study import Study

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
    @tried_again_if_transient
    def activation_shards(
        context: dg.AssetExecutionContext, storage: Storage, device: Device, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        from gluscope_assets.core.collect.job import Collection, collect
        from gluscope_assets.core.collect.shards import adopt
        from gluscope_assets.core.model.checkpoint import forward_dtype

        folder, fingerprints, devices = storage.of(study), [], device.all()
        corpus_fingerprint = recorded_fingerprint(folder.corpus)
        for key, layers in by_checkpoint(context.partition_keys).items():
            checkpoint = checkpoint_of(study, key)
            inputs = {"tokenized_corpus": corpus_fingerprint, "weights": checkpoint.weights_hash}
            footer = provenance(study, "activation_shards", inputs, checkpoint)
            fingerprints.append(footer["fingerprint"])
            for twin in folder.twins("shards", key):
                adopt(twin, folder.shards(key), layers)
            with progress.show(context, f"{checkpoint.name}: activations", "tokens") as show:
                collection = Collection(
                    checkpoint=checkpoint,
                    dtype=forward_dtype(study.model.dtype, devices[0]),
                    corpus=folder.corpus,
                    layers=tuple(layers),
                    model_layers=study.model.layer_numbers,
                    stack=study.model.stack,
                    device_map=study.model.device_map,
                    options=study.collection,
                    root=folder.shards(key),
                    provenance=footer,
                    origin=fingerprint(study, "activation_shards", {"weights": checkpoint.weights_hash}),
                )
                # A model that is spread over all GPUs runs in one process.
                workers = devices if study.model.device_map is None else devices[:1]
                report = collect(collection, workers, show, device.processes)
            for layer in layers:
                metadata = {
                    "fingerprint": str(footer["fingerprint"]),
                    "tokens": report.tokens,
                    "texts": report.texts,
                    "tokens per second": report.tokens / report.seconds,
                    "seconds": report.seconds,
                    "shards": report.shards,
                    "shards finished before": report.resumed,
                    "processes": report.workers,
                    "device": device_label(devices),
                    "dtype": collection.dtype,
                    **software_versions(),
                    "bytes": report.bytes[layer],
                    "path": dg.MetadataValue.path(folder.layer_shards(key, layer).folder),
                    **quadrant_shares(report.frequency[layer]),
                    "dagster/column_schema": column_schema(folder.layer_shards(key, layer).first_statistics),
                }
                context.add_asset_metadata(metadata, partition_key=partition_key(key, layer))
        return dg.MaterializeResult(data_version=data_version(fingerprints))

    return activation_shards


def device_label(devices: Sequence[str]) -> str:
    """What a forward pass ran on, such as `2 × NVIDIA H200` or `CPU with 16 cores`."""
    import torch

    if not devices[0].startswith("cuda"):
        return f"CPU with {os.cpu_count()} cores" if devices[0] == "cpu" else devices[0]
    name = torch.cuda.get_device_name(devices[0])
    return name if len(devices) == 1 else f"{len(devices)} × {name}"


def software_versions() -> dict[str, str]:
    """The versions of what computes a forward pass and its reduction, by package."""
    packages = {name: version(name) for name in ("torch", "transformers", "polars")}
    return {"gluscope": gluscope_assets.__version__, "python": platform.python_version(), **packages}


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
    @tried_again_if_transient
    def quadrant_aggregates(
        context: dg.AssetExecutionContext, storage: Storage, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        from gluscope_assets.core.collect.shards import merge_layers, read_record

        folder, fingerprints = storage.of(study), []
        for key, layers in by_checkpoint(context.partition_keys).items():
            checkpoint = checkpoint_of(study, key)
            collections = {layer: read_record(folder.layer_shards(key, layer)).fingerprint for layer in layers}
            footers = {
                layer: provenance(study, "quadrant_aggregates", {"activation_shards": collections[layer]}, checkpoint)
                for layer in layers
            }
            with progress.show(context, f"{checkpoint.name}: aggregates", "layers") as show:
                reports = merge_layers(
                    folder.shards(key), layers, partial(folder.aggregate, key), footers.__getitem__,
                    study.storage.drop_merged_shards, show,
                )  # fmt: skip
            pace = show.metadata()
            for layer, report in reports.items():
                destination = folder.aggregate(key, layer)
                fingerprints.append(footers[layer]["fingerprint"])
                metadata = {
                    "fingerprint": str(footers[layer]["fingerprint"]),
                    "neurons": report.neurons,
                    "counted tokens": report.positions,
                    "bytes": size_of(destination),
                    "shards merged": report.shards,
                    **pace,
                    "bytes of the shards": report.shard_bytes,
                    "shards dropped": study.storage.drop_merged_shards,
                    "path": dg.MetadataValue.path(destination),
                    **quadrant_shares(report.frequency),
                    "dagster/row_count": report.neurons,
                    "dagster/column_schema": column_schema(folder.tables(key, layer).statistics),
                    "rows": sample_rows(folder.tables(key, layer).statistics, ["neuron", "zero", *COUNTS]),
                }
                context.add_asset_metadata(metadata, partition_key=partition_key(key, layer))
        return dg.MaterializeResult(data_version=data_version(fingerprints))

    return quadrant_aggregates
