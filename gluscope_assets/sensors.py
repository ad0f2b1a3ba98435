"""The sensor and the schedule that notice new inputs. What is then run is up to `automation.py`."""

import dagster as dg

from gluscope_assets.assets.model import checkpoint_event
from gluscope_assets.core.checkpoint import resolve_checkpoint
from gluscope_assets.jobs import observe_corpus_job
from gluscope_assets.partitions import checkpoint_partitions
from gluscope_assets.studies.study import Study, load_study


def new_checkpoints_sensor(study: Study) -> dg.SensorDefinition:
    """Adds a partition for each checkpoint of the study file that has none."""
    partitions = checkpoint_partitions(study)

    @dg.sensor(
        name=f"{study.name}_new_checkpoints",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Adds a partition for each new checkpoint of {study.name}.",
    )
    def new_checkpoints(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        # The file, not the loaded study: a checkpoint is added by editing it, and the code server keeps running.
        current = load_study(study.file)
        known = set(context.instance.get_dynamic_partitions(partitions.name or ""))
        found = [resolve_checkpoint(options) for options in current.model.checkpoints]
        new = [checkpoint for checkpoint in found if checkpoint.key not in known]
        if not new:
            return dg.SensorResult(skip_reason="No new checkpoint.")
        return dg.SensorResult(
            dynamic_partitions_requests=[partitions.build_add_request([checkpoint.key for checkpoint in new])],
            asset_events=[checkpoint_event(current, checkpoint) for checkpoint in new],
        )

    return new_checkpoints


def corpus_schedule(study: Study) -> dg.ScheduleDefinition:
    """Observes the corpus source once a day, where a person has started it."""
    return dg.ScheduleDefinition(
        name=f"{study.name}_daily_corpus_observation",
        job=observe_corpus_job(study),
        cron_schedule="0 5 * * *",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Looks whether the texts of {study.name} have changed.",
    )
