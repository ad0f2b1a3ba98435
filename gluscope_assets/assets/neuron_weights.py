"""The model: its checkpoints, which this project does not make, and what the weights of their neurons say."""

import os
from functools import partial

import dagster as dg

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import Checkpoint, resolve_checkpoint
from gluscope_assets.core.paths import StudyFolder
from gluscope_assets.orchestration.automation import WHEN_INPUTS_CHANGE
from gluscope_assets.orchestration.partitions import by_checkpoint, checkpoint_partitions, layer_partitions, partition_key
from gluscope_assets.orchestration.records import OWNERS, attributes, column_schema, data_version, sample_rows, size_of
from gluscope_assets.orchestration.resources import GPU_POOL, Device, ProgressDisplay, Storage
from gluscope_assets.orchestration.retries import tried_again_if_transient
from gluscope_assets.study.fingerprints import DATA_VERSION_TAG, provenance, recorded_fingerprint
from gluscope_assets.study.study import Study


def build_model_checkpoint(study: Study) -> dg.AssetSpec:
    """The checkpoints, made elsewhere: reported by `checkpoint_event`, never materialized."""
    return dg.AssetSpec(
        [study.name, "model_checkpoint"],
        partitions_def=checkpoint_partitions(study),
        group_name="model",
        kinds={"huggingface"},
        owners=OWNERS,
        description="One set of weights of the model. Its data version is the hash of the weights.",
    )


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
            "place": options.repository or str(options.path),
            # Those of a repository may not be here yet.
            **({"bytes": size_of(options.path)} if options.path is not None else {}),
        },
    )


def checkpoint_of(study: Study, checkpoint_key: str) -> Checkpoint:
    """The checkpoint that a partition key stands for. InputError if the study has no such weights any more."""
    for options in study.model.checkpoints:
        if checkpoint_key.startswith(f"{options.name}-"):
            checkpoint = resolve_checkpoint(options)
            if checkpoint.key == checkpoint_key:
                return checkpoint
    raise InputError(
        f"{study.file} has no checkpoint with the weights of {checkpoint_key}; "
        f"name them in model.checkpoints or choose another partition."
    )


def adopt_weights(folder: StudyFolder, checkpoint_key: str, layer: int, fingerprint: str) -> bool:
    """Whether a checkpoint with the same weights had the table of a layer, which then is this one's too."""
    target = folder.weights(checkpoint_key, layer)
    for twin in folder.twins("weights", checkpoint_key):
        path = folder.weights(twin.name, layer)
        if path.is_file() and recorded_fingerprint(path) == fingerprint:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            os.link(path, target)
            return True
    return False


def build_neuron_weights(study: Study) -> dg.AssetsDefinition:
    """What the three weight vectors of each neuron say without any text."""

    @dg.asset(
        **attributes(study, "neuron_weights", "model", {"pytorch", "parquet"}),
        partitions_def=layer_partitions(study),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=GPU_POOL,
        deps=[[study.name, "model_checkpoint"]],
        automation_condition=WHEN_INPUTS_CHANGE,
        description="One row a neuron: cosines of its weight vectors, orientation, input-output class, tokens it promotes.",
    )
    @tried_again_if_transient
    def neuron_weights(
        context: dg.AssetExecutionContext, storage: Storage, device: Device, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        from gluscope_assets.core.model.weights import write_neuron_weights

        folder, fingerprints = storage.of(study), []
        for key, layers in by_checkpoint(context.partition_keys).items():
            checkpoint = checkpoint_of(study, key)
            footer = provenance(study, "neuron_weights", {"weights": checkpoint.weights_hash}, checkpoint)
            fingerprints.append(footer["fingerprint"])
            missing = [layer for layer in layers if not adopt_weights(folder, key, layer, str(footer["fingerprint"]))]
            if missing:
                with progress.show(context, f"{checkpoint.name}: weights", "layers") as show:
                    write_neuron_weights(
                        checkpoint, missing, partial(folder.weights, key), footer, study.model.stack, device.all()[0], show
                    )
            for layer in layers:
                path = folder.weights(key, layer)
                metadata = {
                    "fingerprint": str(footer["fingerprint"]),
                    "bytes": size_of(path),
                    "path": dg.MetadataValue.path(path),
                    "dagster/column_schema": column_schema(path),
                    "rows": sample_rows(path, ["neuron", "orientation", "cos_gate_in", "cos_in_out", "class"]),
                }
                context.add_asset_metadata(metadata, partition_key=partition_key(key, layer))
        return dg.MaterializeResult(data_version=data_version(fingerprints))

    return neuron_weights
