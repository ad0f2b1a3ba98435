"""The sensor and the schedules that notice new inputs and missing results. What is then run is up to `automation.py`."""

from collections.abc import Iterator

import dagster as dg

from gluscope_assets.core.model.checkpoint import Checkpoint, resolve_checkpoint
from gluscope_assets.core.paths import StudyFolder, default_home
from gluscope_assets.orchestration.jobs import build_layer_job, observe_corpus_job
from gluscope_assets.orchestration.partitions import checkpoint_partitions, layer_partitions
from gluscope_assets.orchestration.records import checkpoint_event
from gluscope_assets.study.fingerprints import outdated_pages
from gluscope_assets.study.registry import look_for_checkpoints, read_registry, retired_keys, with_registry
from gluscope_assets.study.sources import built_checkpoints
from gluscope_assets.study.study import Study, load_study

MISSING_AT_ONCE = 64
"""Runs that one night's schedule asks for at most."""


def new_checkpoints_sensor(study: Study) -> dg.SensorDefinition:
    """Adds a partition for each checkpoint of the study that has none, and takes away that of each retired one."""
    partitions = checkpoint_partitions(study)

    @dg.sensor(
        name=f"{study.name}_new_checkpoints",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Adds a partition for each new checkpoint of {study.name}, listed or discovered, once it is complete.",
    )
    def new_checkpoints(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        # The file, not the loaded study: a checkpoint is added by editing it, and the code server keeps running.
        given, folder = load_study(study.file), StudyFolder(default_home() / study.name)
        said = look_for_checkpoints(given, folder)
        current = with_registry(given, folder)
        present = set(context.instance.get_dynamic_partitions(partitions.name or ""))
        checkpoints = {checkpoint.key: checkpoint for checkpoint in _checkpoints(given, folder)}
        new = [checkpoint for key, checkpoint in checkpoints.items() if key not in present]
        retired = [key for key in retired_keys(folder) if key in present]
        if not new and not retired:
            return dg.SensorResult(skip_reason=f"{said[0].upper()}{said[1:]}.")
        context.log.info(f"{study.name}: {said}.")
        requests = [partitions.build_add_request([checkpoint.key for checkpoint in new])] if new else []
        deletions = [partitions.build_delete_request(retired)] if retired else []
        return dg.SensorResult(
            dynamic_partitions_requests=[*requests, *deletions],
            asset_events=[checkpoint_event(current, checkpoint) for checkpoint in new],
        )

    return new_checkpoints


def _checkpoints(study: Study, folder: StudyFolder) -> Iterator[Checkpoint]:
    """The listed ones, and those that have appeared and are not retired, whose weights need not be here."""
    for options in study.model.checkpoints:
        yield resolve_checkpoint(options)
    for one in read_registry(folder).current:
        yield Checkpoint(one.options.name, one.options.path or folder.root, one.weights_hash)


def corpus_schedule(study: Study) -> dg.ScheduleDefinition:
    """Observes the corpus source once a day, where a person has started it."""
    return dg.ScheduleDefinition(
        name=f"{study.name}_daily_corpus_observation",
        job=observe_corpus_job(study),
        cron_schedule="0 5 * * *",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Looks whether the texts of {study.name} have changed.",
    )


def missing_schedule(study: Study) -> dg.ScheduleDefinition:
    """Builds at night the layers of checkpoints that have no pages or outdated ones, where a person has started it."""
    job = build_layer_job(study)

    @dg.schedule(
        name=f"{study.name}_nightly_missing_partitions",
        job=job,
        cron_schedule="0 1 * * *",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Builds every checkpoint and layer of {study.name} without pages, and renders outdated ones.",
    )
    def nightly_missing_partitions(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        there = context.instance.get_materialized_partitions(dg.AssetKey([study.name, "neuron_pages"]))
        keys = layer_partitions(study).get_partition_keys(dynamic_partitions_store=context.instance)
        folder = StudyFolder(default_home() / study.name)
        current = with_registry(load_study(study.file), folder)
        outdated = set(outdated_pages(current, folder, built_checkpoints(current, folder)))
        pages = [dg.AssetKey([study.name, "neuron_pages"])]
        wanted = [(key, None if key not in there else pages) for key in keys if key not in there or key in outdated]
        if not wanted:
            yield dg.SkipReason("Every checkpoint and layer has its pages.")
        for key, assets in wanted[:MISSING_AT_ONCE]:
            # The key tells runs apart, so that a layer is not asked for again while its run waits.
            run_key = f"{context.scheduled_execution_time:%Y-%m-%d} {key}"
            yield dg.RunRequest(run_key=run_key, partition_key=key, asset_selection=assets)

    return nightly_missing_partitions
