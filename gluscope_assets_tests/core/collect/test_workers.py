"""Workers: no more threads than cores, errors of processes and threads that reach whoever waits, order among threads."""

import os
import signal
from concurrent.futures import Future
from pathlib import Path

import pytest

from gluscope_assets.core import processes
from gluscope_assets.core.collect.job import collect
from gluscope_assets.core.collect.workers import Abandoned, TokenCounter, Worker, plan_workers, run_processes, wait_for_all
from gluscope_assets.core.errors import InputError
from gluscope_assets_tests.benchmarks.soak import small_collection


def count_threads(name: str, worker: Worker, count_tokens: TokenCounter) -> None:
    """Work that says how many threads it was given, unless it is to fail."""
    count_tokens(worker.threads)
    if name == "bad input":
        raise InputError("the corpus is empty; write something")
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)


def test_processes_tell_what_they_have_counted_and_how_they_ended() -> None:
    counted: list[int] = []
    assert run_processes(count_threads, "fine", [Worker("cpu", 3), Worker("cpu", 4)], counted.append) == [0, 0]
    assert sorted(counted) == [3, 4]
    assert run_processes(count_threads, "killed", [Worker("cpu", 1)], counted.append) == [-signal.SIGKILL]


def test_bad_input_in_a_process_stays_one_sentence() -> None:
    with pytest.raises(InputError, match="^the corpus is empty; write something$"):
        run_processes(count_threads, "bad input", [Worker("cpu", 1)], lambda tokens: None)


def test_an_error_in_a_process_is_the_error_of_the_collection(tmp_path: Path) -> None:
    broken = small_collection(tmp_path, "file").model_copy(update={"root": tmp_path / "file" / "below"})
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(RuntimeError, match="a collecting process failed"):
        collect(broken, ["cpu"], processes=2)


def test_of_several_threads_the_one_that_failed_by_itself_is_heard() -> None:
    futures: list[Future[None]] = [Future() for _ in range(3)]
    futures[0].set_exception(Abandoned())
    futures[1].set_result(None)
    futures[2].set_exception(OSError("no space is left"))
    with pytest.raises(OSError, match="no space is left"):
        wait_for_all(futures)


def test_workers_never_have_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda process: set(range(16)))
    assert plan_workers(["cpu"], shards=100) == [Worker("cpu", 4)] * 4
    assert plan_workers(["cpu"], shards=2) == [Worker("cpu", 8)] * 2
    assert plan_workers(["cpu"], shards=100, processes=3) == [Worker("cpu", 5)] * 3
    assert plan_workers(["cuda:0", "cuda:1"], shards=100) == [Worker("cuda:0", 9), Worker("cuda:1", 9)]
    assert plan_workers(["cuda:0", "cuda:1"], shards=1) == [Worker("cuda:0", 17)]
    assert plan_workers(["cpu"], shards=0) == []
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda process: {0})
    assert plan_workers(["cpu"], shards=100) == [Worker("cpu", 1)]
