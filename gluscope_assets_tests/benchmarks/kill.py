"""Kill runs, the daemon and the webserver at random moments until everything is built, and compare with an undisturbed build.

Run by `make kill-soak`, with 30 kills. The services are those of `deployment/compose.yaml`; their settings are the example's
with shorter waits. With PostgreSQL the code server is killed too, with all its processes, as a container ends.
"""

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import rich.table
from rich.console import Console

from gluscope_assets.commands import main as cli
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.core.paths import HOME_VARIABLE
from gluscope_assets.orchestration.partitions import RANGE_END_TAG, RANGE_START_TAG
from gluscope_assets.orchestration.resources import GPU_POOL
from gluscope_assets.study.fingerprints import LAYER_STAGES, partition_key
from gluscope_assets.study.study import STUDIES_VARIABLE, load_study
from gluscope_assets_tests.support.deployed import Deployed, deployed, until
from gluscope_assets_tests.support.tiny import LAYERS, write_checkpoint, write_tiny

VICTIMS = {"sqlite": ("run", "run", "daemon", "webserver"), "postgresql": ("run", "run", "daemon", "webserver", "code")}
LONGEST_PAUSE = 12.0
"""Seconds between two kills at most. A run of the tiny study takes about a minute."""

WORKER = re.compile(r"Started process for run \(pid: (\d+)\)")
TIMED = {"site/index.html"}
"""Files that say when each forward pass ran and what it took."""


def impatient(text: str) -> str:
    """The example's settings with shorter waits, and without limit to what a soak may start again."""
    for name, seconds in {
        "poll_interval_seconds": 2,
        "start_timeout_seconds": 60,
        "free_slots_after_run_end_seconds": 4,
    }.items():
        text, found = re.subn(rf"{name}: \d+", f"{name}: {seconds}", text)
        assert found == 1, name
    return text


def files_of(root: Path) -> dict[str, bytes]:
    """The content of every file of a study that does not tell the time."""
    paths = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if name not in TIMED}


@dataclass
class Work:
    """Some stages that have to be built, and the runs that have tried."""

    stages: Sequence[str]
    tags: dict[str, str] = field(default_factory=dict)
    submitted: list[str] = field(default_factory=list)

    def is_done(self, services: Deployed, instance: dg.DagsterInstance) -> bool:
        """Whether it is built; submits it again where no run is under way."""
        runs = [run for run in instance.get_runs() if run.run_id in self.submitted or run.root_run_id in self.submitted]
        if any(run.is_success for run in runs):
            return True
        retried = {run.parent_run_id for run in runs}
        # A retry that Dagster has announced comes by itself.
        awaited = any(run.tags.get("dagster/will_retry") == "true" and run.run_id not in retried for run in runs)
        if not awaited and all(run.is_finished for run in runs):
            self.submitted.append(services.launch("tiny", self.stages, self.tags))
        return False


@dataclass
class Soak:
    """Kills at random moments."""

    services: Deployed
    instance: dg.DagsterInstance
    victims: Sequence[str]
    kills: int
    generator: random.Random
    killed: Counter[str] = field(default_factory=Counter)
    at_work: Counter[str] = field(default_factory=Counter)
    """Kills while a run was at work."""
    next_kill: float = 0.0

    def maybe_kill(self) -> None:
        """Kill something if it is time to, and start again what does not start again by itself."""
        if self.killed.total() >= self.kills or time.monotonic() < self.next_kill:
            return
        workers = self.workers()
        victim = self.generator.choice(self.victims)
        if victim == "run":
            if not workers:
                return
            os.kill(self.generator.choice(workers), signal.SIGKILL)
        else:
            process = self.services.processes[victim]
            # A container ends with all that runs in it; on a machine of one's own only the process is lost.
            (os.killpg if victim == "code" else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
            self.services.start(victim)
            if victim != "daemon":
                self.services.wait_for(victim)
        self.killed[victim] += 1
        self.at_work[victim] += bool(workers)
        self.next_kill = time.monotonic() + self.generator.uniform(0.2, LONGEST_PAUSE)

    def workers(self) -> list[int]:
        """The processes of the runs that are alive."""
        found = []
        for run in self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
            for event in self.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
                match = WORKER.search(event.message)
                if match and Path(f"/proc/{match[1]}").exists():
                    found.append(int(match[1]))
        return found

    def build(self, work: Sequence[Work]) -> None:
        """Build all of `work` side by side, however often that has to be begun."""

        def is_done() -> bool:
            self.maybe_kill()
            # Each is asked, because asking is what submits it.
            done = [part.is_done(self.services, self.instance) for part in work]
            return all(done)

        until(is_done, f"{work}", 1200, 0.3)

    def build_all(self, keys: Sequence[str]) -> None:
        """The whole study: the corpus, the checkpoints beside each other, the site."""
        self.build([Work(["tokenized_corpus"])])
        ends = [[partition_key(key, layer) for layer in (0, LAYERS - 1)] for key in keys]
        self.build([Work(list(LAYER_STAGES), {RANGE_START_TAG: first, RANGE_END_TAG: last}) for first, last in ends])
        self.build([Work(["site"])])


def undisturbed_build(study: Path, home: Path) -> dict[str, bytes]:
    """The files of a build in this process."""
    os.environ.update({HOME_VARIABLE: str(home), STUDIES_VARIABLE: ""})
    if cli.main(["build", "--study", str(study)]):
        raise RuntimeError("the undisturbed build failed")
    return files_of(home / "tiny")


def main() -> None:
    """Soak, and say what became of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storage", choices=VICTIMS, default="sqlite")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, checkpoint in enumerate(("first", "second")):
            write_checkpoint(folder / "checkpoints" / checkpoint, seed)
        (folder / "study").mkdir()
        study = write_tiny(folder / "study", folder / "checkpoints")
        keys = [resolve_checkpoint(given).key for given in load_study(study).model.checkpoints]
        expected, home = undisturbed_build(study, folder / "undisturbed"), folder / "disturbed"
        different: list[str] = []
        builds = 0
        with (
            deployed(folder / "deployed", home, study, options.storage, impatient) as services,
            services.instance() as instance,
        ):
            services.stop_sensors(["automation_cpu"])
            services.start("daemon")
            until(lambda: len(instance.get_dynamic_partitions("tiny_checkpoints")) == len(keys), "the checkpoints")
            soak = Soak(services, instance, VICTIMS[options.storage], options.kills, random.Random(options.seed))
            while builds == 0 or soak.killed.total() < options.kills:
                shutil.rmtree(home / "tiny", ignore_errors=True)
                soak.build_all(keys)
                found = files_of(home / "tiny")
                different += sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
                builds += 1

            def held() -> int:
                limit = services.pool(GPU_POOL)
                return 0 if limit is None else int(limit["activeSlotCount"]) + int(limit["assignedStepCount"])

            # What a killed run held is given back some seconds after its end.
            freed_after = time.monotonic()
            until(lambda: held() == 0 or time.monotonic() > freed_after + 60, "the pool", 90)
            left, seconds = held(), time.monotonic() - freed_after
            statuses = Counter(run.status.value for run in instance.get_runs())
            retries = sum(run.parent_run_id is not None for run in instance.get_runs())
            logs = "".join(services.log(service) for service in ("code", "webserver", "daemon"))
    table = rich.table.Table("killed", "times", "while a run was at work", box=None, header_style="bold")
    for victim, times in sorted(soak.killed.items()):
        table.add_row(victim, str(times), str(soak.at_work[victim]))
    Console().print(table)
    print(f"{options.storage}: {soak.killed.total()} kills in {time.monotonic() - began:.0f} s, {builds} whole builds")
    print(f"runs: {dict(statuses)}, {retries} of them started again by Dagster")
    print(f"files compared: {len(expected)} a build, different: {different or 'none'}")
    print(f"slots of the pool {GPU_POOL} still held: {left} (after {seconds:.0f} s)")
    print(f"database is locked: {logs.count('database is locked')} times in the logs")
    sys.exit(1 if different or left else 0)


if __name__ == "__main__":
    main()
