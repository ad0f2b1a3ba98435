"""Processes: none outlives the one that started it, and all cores are shared out."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gluscope_assets.core import processes
from gluscope_assets.core.processes import available_cores, cores_each, end_with_parent
from gluscope_assets_tests.support.waiting import is_alive, until


def child_that_waits(file: Path) -> None:
    """What a child does, as the test below starts it."""
    end_with_parent()
    file.with_suffix(".half").write_text(str(os.getpid()))
    file.with_suffix(".half").rename(file)
    time.sleep(600)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_child_ends_with_its_killed_parent(tmp_path: Path, method: str) -> None:
    file = tmp_path / "child"
    code = (
        "import multiprocessing, pathlib, time\n"
        "from gluscope_assets_tests.core.test_processes import child_that_waits\n"
        f"file = pathlib.Path({str(file)!r})\n"
        f"multiprocessing.get_context({method!r}).Process(target=child_that_waits, args=(file,)).start()\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        try:
            until(file.exists)
            child = int(file.read_text())
            assert is_alive(child)
        finally:
            parent.send_signal(signal.SIGKILL)
    until(lambda: not is_alive(child))


def test_a_process_that_has_no_parent_here_goes_on() -> None:
    before = threading.active_count()
    end_with_parent()
    assert threading.active_count() == before


def test_cores_are_those_granted_and_every_process_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda process: set(range(16)))
    assert available_cores() == 16
    assert [cores_each(count) for count in (1, 3, 16, 40)] == [16, 5, 1, 1]
