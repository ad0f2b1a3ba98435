"""Dagster as commands use it: the instance of a home folder, the lock of a build, and the runs that commands start in it.

What belongs here: what is the same whichever command runs what. What does not: which assets have to run (`plan.py`), and
settings for several machines (`deployment/`).
"""

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.paths import default_home
from gluscope_assets.orchestration.retries import COMMAND_TAG

DAGSTER_YAML = """\
# Written by GLUScope when it was missing; change what you like.
telemetry:
  enabled: false
concurrency:
  pools:
    granularity: op
    # One run at a time on the GPU.
    default_limit: 1
  runs:
    # More at once want PostgreSQL: every run writes to the same SQLite files.
    max_concurrent_runs: 2
run_monitoring:
  enabled: true
  # A run that was killed must not keep the GPU.
  free_slots_after_run_end_seconds: 60
nux:
  # No newsletter dialog over the first page.
  enabled: false
"""

COMMAND_TAGS = {COMMAND_TAG: "build"}
"""The tags of every run that a command starts."""

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""The run configuration that leaves the terminal to the command's own lines."""


def open_instance() -> dg.DagsterInstance:
    """The persistent Dagster instance of the home folder, which `gluscope ui` shows; to be entered, and left at the end."""
    return dg.DagsterInstance.from_config(str(dagster_home(default_home())))


def dagster_home(home: Path) -> Path:
    """The folder of the Dagster instance, made if it is missing."""
    folder = home / "dagster"
    if not (folder / "dagster.yaml").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dagster.yaml").write_text(DAGSTER_YAML)
    return folder


@contextmanager
def only_build() -> Iterator[None]:
    """Hold the home folder's lock. Two builds at once would write the same files; InputError if another holds it."""
    home = default_home()
    home.mkdir(parents=True, exist_ok=True)
    with (home / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"Another build is running in {home}; wait for it or set $GLUSCOPE_HOME.") from error
        yield


def retire_dead_runs(instance: dg.DagsterInstance) -> None:
    """End the runs of builds that were killed: the lock is ours, so none of them is alive, but they hold the GPU's slot."""
    unfinished = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    for run in instance.get_runs(dg.RunsFilter(tags=COMMAND_TAGS, statuses=unfinished)):
        instance.report_run_failed(run, "The build that started this run was killed.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def execute_job(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    assets: Sequence[dg.AssetKey] | None = None,
    tags: Mapping[str, str] | None = None,
    config: Mapping[str, object] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run a job, or some of its assets, in this process. What ends the run is raised."""
    return job.execute_in_process(
        run_config={**QUIET, **(config or {})},
        instance=instance,
        asset_selection=assets,
        tags={**COMMAND_TAGS, **(tags or {})},
    )
