"""The files of `deployment/`: what they say is valid, agrees, and works when it is started without Docker."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.instance.config import PoolGranularity, dagster_instance_config
from dagster._core.launcher.base import WorkerStatus
from dagster._grpc.types import GetCurrentRunsResult
from dagster._serdes import serialize_value

from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.orchestration.launcher import CodeServerRunLauncher
from gluscope_assets.orchestration.partitions import RANGE_END_TAG, RANGE_START_TAG
from gluscope_assets.orchestration.resources import GPU_POOL
from gluscope_assets.study.fingerprints import partition_key
from gluscope_assets_tests.conftest import Workplace
from gluscope_assets_tests.support.deployed import (
    COMPOSE,
    DAGSTER_YAML,
    DEPLOYMENT,
    SERVICES,
    Deployed,
    deployed,
    postgresql_programs,
)

# What the files say


def settings_of(storage: str) -> dict[str, Any]:
    return dict(yaml.safe_load(DAGSTER_YAML[storage].read_text()))


@pytest.mark.parametrize("storage", DAGSTER_YAML)
def test_the_settings_are_valid(storage: str, tmp_path: Path) -> None:
    shutil.copy(DAGSTER_YAML[storage], tmp_path / "dagster.yaml")
    config, _ = dagster_instance_config(str(tmp_path))
    assert config["run_monitoring"]["enabled"]
    assert config["run_retries"]["enabled"]


def test_the_settings_for_one_machine_make_an_instance(tmp_path: Path) -> None:
    shutil.copy(DAGSTER_YAML["sqlite"], tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        check_instance(instance, runs=2)


def check_instance(instance: dg.DagsterInstance, runs: int) -> None:
    concurrency = instance.get_concurrency_config()
    assert concurrency.pool_config.pool_granularity == PoolGranularity.OP
    assert concurrency.pool_config.default_pool_limit == 1
    assert concurrency.run_queue_config is not None
    assert concurrency.run_queue_config.max_concurrent_runs == runs
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_max_resume_run_attempts == 0
    assert instance.run_retries_enabled
    assert not instance.run_retries_retry_on_asset_or_op_failure
    assert not instance.telemetry_enabled


def test_both_settings_differ_only_where_they_must() -> None:
    one, team = settings_of("sqlite"), settings_of("postgresql")
    assert set(team) - set(one) == {"storage", "run_launcher"}
    assert set(one) <= set(team)
    differing = {name for name in one if one[name] != team[name]}
    assert differing == {"concurrency"}
    assert one["concurrency"]["pools"] == team["concurrency"]["pools"]


def test_compose_gives_each_service_what_it_needs() -> None:
    text = DAGSTER_YAML["postgresql"].read_text() + (DEPLOYMENT / "workspace.yaml").read_text()
    wanted = set(re.findall(r"env: (\w+)", text))
    services = COMPOSE["services"]
    assert set(services) == {"postgresql", *SERVICES}
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert {volume.split(":")[0] for volume in service["volumes"]} <= {*COMPOSE["volumes"], "./studies"}
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "Dagster asks for no password"
    for name in SERVICES:
        assert wanted <= set(services[name]["environment"]), name
        assert services[name]["environment"]["GLUSCOPE_POSTGRES_PASSWORD"].startswith("${"), "no password in the file"
    assert services["postgresql"]["environment"]["POSTGRES_USER"] == services["code"]["environment"]["GLUSCOPE_POSTGRES_USER"]


def test_the_image_copies_what_is_there() -> None:
    text = (DEPLOYMENT / "Dockerfile").read_text()
    root = DEPLOYMENT.parent
    for source in re.findall(r"^COPY (\S+) ", text, re.MULTILINE):
        assert (root / source).exists(), source
    assert "--constraint constraints.txt '.[team]'" in text


# The launcher


@pytest.mark.parametrize(
    ("answer", "status"),
    [(["this", "other"], WorkerStatus.RUNNING), (["other"], WorkerStatus.NOT_FOUND), (None, WorkerStatus.RUNNING)],
)
def test_the_launcher_asks_the_code_server_for_the_run(
    answer: list[str] | None, status: WorkerStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_current_runs() -> str:
        if answer is None:
            raise DagsterUserCodeUnreachableError("it is not there")
        return serialize_value(GetCurrentRunsResult(current_runs=answer, serializable_error_info=None))

    client = SimpleNamespace(get_current_runs=get_current_runs)
    monkeypatch.setattr(CodeServerRunLauncher, "_get_grpc_client_for_termination", lambda self, run_id: client)
    run: Any = SimpleNamespace(run_id="this")
    assert CodeServerRunLauncher().check_run_worker_health(run).status == status


# The services


@pytest.fixture(params=DAGSTER_YAML)
def services(request: pytest.FixtureRequest, tmp_path: Path, tiny: Workplace) -> Iterator[tuple[Deployed, Workplace]]:
    """The services over the tiny study, whose activation shards are gone; the daemon is not started yet."""
    if request.param == "postgresql" and postgresql_programs() is None:
        pytest.skip("PostgreSQL's server is not installed: apt-get install postgresql")
    shutil.rmtree(tiny.folder.root / "shards")
    with deployed(tmp_path / "deployed", tiny.home, tiny.file, request.param) as started:
        yield started, tiny


def test_two_runs_at_once_through_the_daemon(services: tuple[Deployed, Workplace], built_tiny: Workplace) -> None:
    deployment, tiny = services
    keys = [resolve_checkpoint(options).key for options in tiny.study.model.checkpoints]
    # Only what is asked for is to run here.
    deployment.stop_sensors(["automation_cpu"])
    deployment.start("daemon")
    with deployment.instance() as instance:
        check_instance(instance, runs=8 if "postgres" in str(instance.run_storage) else 2)
        while set(instance.get_dynamic_partitions("tiny_checkpoints")) != set(keys):
            time.sleep(0.2)
        ends = [[partition_key(key, layer) for layer in (0, 1)] for key in keys]
        stages = ["activation_shards"]
        # The queue holds back a run that begins with a pool in use: nothing begins before both are there.
        instance.event_log_storage.set_concurrency_slots(GPU_POOL, 0)
        submitted = [deployment.launch("tiny", stages, {RANGE_START_TAG: first, RANGE_END_TAG: last}) for first, last in ends]
        instance.event_log_storage.delete_concurrency_limit(GPU_POOL)
        held = []

        def finished() -> bool:
            held.append(len(instance.event_log_storage.get_concurrency_info(GPU_POOL).claimed_slots))
            return all(instance.get_run_by_id(run).is_finished for run in submitted)  # type: ignore[union-attr]

        deployment.wait(finished)
        assert max(held) == 1, "one step at a time on the GPU"
        assert held[-1] == 0
        records = instance.get_run_records(dg.RunsFilter(run_ids=submitted))
    assert [record.dagster_run.status for record in records] == [dg.DagsterRunStatus.SUCCESS] * 2, deployment.log("code")
    starts, stops = zip(*((record.start_time or 0.0, record.end_time or 0.0) for record in records), strict=True)
    assert max(starts) < min(stops), "the runs were not beside each other"
    for path in sorted(built_tiny.folder.root.rglob("*.parquet")):
        assert (tiny.folder.root / path.relative_to(built_tiny.folder.root)).read_bytes() == path.read_bytes(), path
    if "postgres" in deployment.settings:
        assert all(deployment.is_healthy(service) for service in SERVICES), "what compose.yaml asks"
    assert "gpu" in deployment.dagster("instance", "concurrency", "set", GPU_POOL, "2")
    assert deployment.pool(GPU_POOL) is not None
    logs = "".join(deployment.log(service) for service in SERVICES)
    assert "database is locked" not in logs
    assert "Traceback" not in logs
