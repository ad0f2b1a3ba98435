"""A deployment as `deployment/` describes it, without Docker: PostgreSQL from the distribution, and the services of
`compose.yaml` by their own commands and settings, on ports of this machine's loopback.

Used by the tests of the deployment and by the benchmarks that kill it. What is launched in it is their business.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from gluscope_assets.core.paths import HOME_VARIABLE
from gluscope_assets.study.study import STUDIES_VARIABLE

DEPLOYMENT = Path(__file__).parents[2] / "deployment"
COMPOSE = yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())
DAGSTER_YAML = {"sqlite": DEPLOYMENT / "dagster.sqlite.yaml", "postgresql": DEPLOYMENT / "dagster.postgres.yaml"}
SERVICES = ("code", "webserver", "daemon")
"""In the order in which they are started."""

LAUNCH = """
mutation ($executionParams: ExecutionParams!) {
  launchRun(executionParams: $executionParams) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on InvalidSubsetError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
RUNS = "{ runsOrError { ... on Runs { results { runId status startTime endTime tags { key value } } } } }"
POOL = """
{ instance { concurrencyLimits { concurrencyKey slotCount activeSlotCount pendingStepCount assignedStepCount } } }
"""
SENSORS = """
{ sensorsOrError(repositorySelector: {repositoryLocationName: "gluscope", repositoryName: "__repository__"})
  { ... on Sensors { results { name sensorState { id selectorId status } } } } }
"""
STOP = "mutation ($id: String!) { stopSensor(id: $id) { __typename ... on PythonError { message } } }"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def until(true: Callable[[], object], what: str, seconds: float = 120, pause: float = 0.2) -> None:
    """Wait until a function gives something true."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause)


# PostgreSQL


def postgresql_programs() -> Path | None:
    """The folder of the distribution's newest PostgreSQL server."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


@contextmanager
def postgresql() -> Iterator[dict[str, str]]:
    """A server of our own with an empty database; the environment variables that lead there."""
    programs = postgresql_programs()
    assert programs is not None
    # A server does not run as root; the distribution made a user for it.
    user: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    # Not in a folder of pytest's, which another user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="gluscope-postgresql-"))
    port, password = free_port(), "not/a:secret @ all"
    try:
        (folder / "password").write_text(password)
        for path in (folder, folder / "password"):
            if user:
                shutil.chown(path, "postgres", "postgres")
        subprocess.run(
            [programs / "initdb", "--pgdata", folder / "data", "--username", "dagster", "--auth", "scram-sha-256",
             "--pwfile", folder / "password", "--no-sync", "--encoding", "UTF8"],
            check=True, capture_output=True, cwd=folder, **user,
        )  # fmt: skip
        server = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", "-p", str(port), "-c", "listen_addresses=127.0.0.1",
             "-c", "unix_socket_directories="],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("w"), **user,
        )  # fmt: skip
        try:
            place = ["--host", "127.0.0.1", "--port", str(port), "--username", "dagster"]
            ready = [programs / "pg_isready", *place, "--quiet"]
            until(lambda: subprocess.run(ready).returncode == 0, "PostgreSQL", 60)
            environment = {**os.environ, "PGPASSWORD": password}
            subprocess.run([programs / "createdb", *place, "dagster"], check=True, env=environment)
            yield {
                "GLUSCOPE_POSTGRES_HOST": "127.0.0.1",
                "GLUSCOPE_POSTGRES_PORT": str(port),
                "GLUSCOPE_POSTGRES_DATABASE": "dagster",
                "GLUSCOPE_POSTGRES_USER": "dagster",
                "GLUSCOPE_POSTGRES_PASSWORD": password,
            }
        finally:
            # Without waiting for clients to leave.
            server.send_signal(signal.SIGINT)
            server.wait(30)
    finally:
        shutil.rmtree(folder)


# The services


@dataclass
class Deployed:
    """The services over one home folder. `settings` is the text of dagster.yaml."""

    folder: Path
    home: Path
    study: Path
    """A study file."""
    settings: str
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the settings ask for."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ports = {name: free_port() for name in ("code", "webserver")}
        self.dagster_home = self.folder / "dagster"
        self.dagster_home.mkdir(parents=True)
        (self.dagster_home / "dagster.yaml").write_text(self.settings)
        shutil.copy(DEPLOYMENT / "workspace.yaml", self.dagster_home)

    def variables(self, service: str) -> dict[str, str]:
        """The environment of a service: as compose.yaml names it, with this machine's places."""
        here = {
            **self.environment,
            "GLUSCOPE_CODE_HOST": "127.0.0.1",
            "GLUSCOPE_CODE_PORT": str(self.ports["code"]),
            "GLUSCOPE_ALERT_WEBHOOK": "",
            "GLUSCOPE_DAGSTER_URL": f"http://127.0.0.1:{self.ports['webserver']}",
            STUDIES_VARIABLE: str(self.study),
        }
        wanted = {name: here.get(name, value) for name, value in COMPOSE["services"][service]["environment"].items()}
        # As the Dockerfile sets them.
        image = {"DAGSTER_HOME": str(self.dagster_home), HOME_VARIABLE: str(self.home), "OMP_WAIT_POLICY": "PASSIVE"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, **wanted, **image, "PATH": path}

    def words(self, command: Sequence[str]) -> list[str]:
        """A command of compose.yaml with the addresses of this machine."""
        ports = {"4000": str(self.ports["code"]), "3000": str(self.ports["webserver"]), "0.0.0.0": "127.0.0.1"}
        return [ports.get(word, word).replace(":3000/", f":{ports['3000']}/") for word in command]

    def start(self, service: str) -> None:
        """Start a service again or for the first time."""
        with (self.folder / f"{service}.log").open("ab") as log:
            self.processes[service] = subprocess.Popen(
                self.words(COMPOSE["services"][service]["command"]),
                cwd=self.dagster_home,
                env=self.variables(service),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_for(self, service: str) -> None:
        """Wait until a service answers. The daemon has no port."""

        def answers() -> bool:
            assert self.processes[service].poll() is None, f"{service} ended:\n{self.log(service)[-4000:]}"
            try:
                if service == "code":
                    socket.create_connection(("127.0.0.1", self.ports["code"]), 1).close()
                else:
                    urllib.request.urlopen(f"http://127.0.0.1:{self.ports['webserver']}/server_info", timeout=5).close()
            except OSError:
                return False
            return True

        until(answers, service)

    def is_healthy(self, service: str) -> bool:
        """What the health check of compose.yaml says."""
        _, *command = COMPOSE["services"][service]["healthcheck"]["test"]
        done = subprocess.run(
            self.words(command), cwd=self.dagster_home, env=self.variables(service), capture_output=True, timeout=120
        )
        return done.returncode == 0

    def log(self, service: str) -> str:
        """What a service has written."""
        return (self.folder / f"{service}.log").read_text(errors="replace")

    def stop(self) -> None:
        """End all services, the daemon first, and what they have started."""
        for service in reversed(SERVICES):
            if process := self.processes.get(service):
                process.send_signal(signal.SIGINT)
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """The Dagster instance of the services."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            with dg.DagsterInstance.from_config(str(self.dagster_home)) as instance:
                yield instance

    def dagster(self, *arguments: str) -> str:
        """What a command of Dagster's prints."""
        environment = self.variables("daemon")
        done = subprocess.run(["dagster", *arguments], cwd=self.dagster_home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    # What a person does in the UI

    def ask(self, query: str, variables: Mapping[str, object] | None = None) -> Any:
        """The data that the webserver's GraphQL interface answers with."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['webserver']}/graphql",
            json.dumps({"query": query, "variables": variables or {}}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = json.load(answer)
        assert "errors" not in content, content["errors"]
        return content["data"]

    def launch(self, study: str, stages: Sequence[str], tags: Mapping[str, str] | None = None) -> str:
        """Submit a run of some stages; its id."""
        selector = {
            "repositoryLocationName": "gluscope",
            "repositoryName": "__repository__",
            "jobName": "__ASSET_JOB",
            "assetSelection": [{"path": [study, stage]} for stage in stages],
        }
        labels = [{"key": key, "value": value} for key, value in (tags or {}).items()]
        params = {"selector": selector, "mode": "default", "runConfigData": {}, "executionMetadata": {"tags": labels}}
        answer = self.ask(LAUNCH, {"executionParams": params})["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def runs(self) -> dict[str, dict[str, Any]]:
        """All runs by id: status, startTime, endTime, tags."""
        return {
            run["runId"]: {**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}}
            for run in self.ask(RUNS)["runsOrError"]["results"]
        }

    def wait(self, true: Callable[[], object], seconds: float = 240) -> None:
        """Wait until a function gives something true, or a service ends."""

        def is_true() -> bool:
            for service, process in self.processes.items():
                assert process.poll() is None, f"{service} ended:\n{self.log(service)[-4000:]}"
            return bool(true())

        until(is_true, "the runs", seconds)

    def stop_sensors(self, names: Sequence[str]) -> None:
        """Switch sensors off."""
        for sensor in self.ask(SENSORS)["sensorsOrError"]["results"]:
            if sensor["name"] in names:
                answer = self.ask(STOP, {"id": sensor["sensorState"]["id"]})["stopSensor"]
                assert answer["__typename"] == "StopSensorMutationResult", answer

    def pool(self, name: str) -> dict[str, Any] | None:
        """The slots of a pool, how many are held and by which runs; None if nothing has used it yet."""
        limits = self.ask(POOL)["instance"]["concurrencyLimits"]
        return next((limit for limit in limits if limit["concurrencyKey"] == name), None)


@contextmanager
def deployed(
    folder: Path, home: Path, study: Path, storage: str, settings: Callable[[str], str] = lambda text: text
) -> Iterator[Deployed]:
    """Code server and webserver running, the daemon not yet; `settings` may change the example's text."""
    text = settings(DAGSTER_YAML[storage].read_text())
    if storage == "postgresql":
        with postgresql() as environment:
            yield from _running(Deployed(folder, home, study, text, environment))
    else:
        yield from _running(Deployed(folder, home, study, text))


def _running(services: Deployed) -> Iterator[Deployed]:
    try:
        for service in SERVICES[:2]:
            services.start(service)
            services.wait_for(service)
        yield services
    finally:
        services.stop()
