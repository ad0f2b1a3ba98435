"""Fixtures: the tiny study's input, the study built once, and a private copy of it to change."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests beside each other keep the cores busy.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
# As the command line sets them, before torch is imported by a test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TQDM_DISABLE", "1")

from gluscope_assets.commands import main as cli
from gluscope_assets.core.paths import HOME_VARIABLE, StudyFolder
from gluscope_assets.study.study import STUDIES_VARIABLE, Study, load_study

# Nothing is said of how long a test may take: tests beside each other take their time.
settings.register_profile(
    "gluscope", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("gluscope")

LONGEST = (
    "test_readme", "test_deployment", "test_commands", "test_incremental", "test_explorer", "test_job", "test_shards",
    "test_build", "test_accessibility", "test_real_model", "test_pages",
)  # fmt: skip
"""Files that take minutes, which begin first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have to say beside passing."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name == "said":
                terminalreporter.write_line(str(value))


@dataclass
class Workplace:
    """A study file and a home folder, with the command line between them."""

    file: Path
    home: Path

    @property
    def study(self) -> Study:
        return load_study(self.file)

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder(self.home / self.study.name)

    @property
    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.home / "dagster"))

    def build(self, *arguments: str) -> int:
        """Run `gluscope build` in this process; its exit code."""
        return cli.main(["build", "--study", str(self.file), *arguments])

    def runs(self) -> set[str]:
        """The ids of all runs so far."""
        with self.instance as instance:
            return {run.run_id for run in instance.get_runs()}

    def materialized(self, runs: set[str] | None = None) -> dict[str, set[str | None]]:
        """The partitions of each asset that were materialized, in all runs but those in `runs`."""
        found: dict[str, set[str | None]] = {}
        with self.instance as instance:
            for key in instance.get_asset_keys():
                for record in instance.fetch_materializations(key, limit=10_000).records:
                    if record.run_id and record.run_id not in (runs or set()):
                        found.setdefault(key.path[-1], set()).add(record.partition_key)
        return {asset: partitions for asset, partitions in found.items() if asset != "model_checkpoint"}

    def files(self) -> list[str]:
        """Everything stored outside the Dagster instance."""
        paths = (path.relative_to(self.home) for path in self.home.rglob("*") if path.is_file())
        return sorted(str(path) for path in paths if path.parts[0] != "dagster" and path.name != "build.lock")


@contextmanager
def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, bool]]:
    """A folder beside those of all workers, and whether this one is the first, for which the others wait, to fill it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, finished = root / name, root / f"{name}.finished"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_new = not finished.exists()
        folder.mkdir(exist_ok=True)
        yield folder, is_new
        finished.touch()


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three random checkpoints."""
    from gluscope_assets_tests.support.tiny import write_checkpoint

    with shared_folder(tmp_path_factory, "checkpoints") as (folder, is_new):
        if is_new:
            for seed, name in enumerate(("first", "second", "third")):
                write_checkpoint(folder / name, seed)
    return folder


@pytest.fixture(scope="session")
def built_tiny(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoints: Path) -> Workplace:
    """The tiny study, built. Shared: tests must not change it."""
    from gluscope_assets_tests.support.tiny import write_tiny

    with shared_folder(tmp_path_factory, "built") as (folder, is_new):
        workplace = Workplace(folder / "tiny.yaml", folder / "home")
        if is_new:
            assert write_tiny(folder, tiny_checkpoints) == workplace.file
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(HOME_VARIABLE, str(workplace.home))
                patch.setenv(STUDIES_VARIABLE, "")
                assert workplace.build() == 0
    return workplace


@pytest.fixture
def tiny(tmp_path: Path, built_tiny: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A private copy of the built study, whose home is $GLUSCOPE_HOME."""
    shutil.copytree(built_tiny.file.parent, tmp_path / "tiny")
    workplace = Workplace(tmp_path / "tiny" / "tiny.yaml", tmp_path / "tiny" / "home")
    monkeypatch.setenv(HOME_VARIABLE, str(workplace.home))
    monkeypatch.setenv(STUDIES_VARIABLE, "")
    return workplace


@pytest.fixture
def fresh(tmp_path: Path, tiny_checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """The tiny study with nothing built yet."""
    from gluscope_assets_tests.support.tiny import write_tiny

    folder = tmp_path / "fresh"
    workplace = Workplace(write_tiny(folder, tiny_checkpoints), folder / "home")
    monkeypatch.setenv(HOME_VARIABLE, str(workplace.home))
    monkeypatch.setenv(STUDIES_VARIABLE, "")
    return workplace
