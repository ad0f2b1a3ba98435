"""Workers: the processes and threads of a collection, and how they end together.

What belongs here: how many there are, for the devices and cores of this machine, and how one that fails ends the others. What
does not: what they do. A process is given a function, a thread a piece of work, and `job` and `shard_state` say which.
"""

import multiprocessing
import queue
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.processes import available_cores, cores_each, end_with_parent

THREADS_A_PROCESS = 4
"""CPU threads that share one process's state. More would wait for Python; more processes would hold more states."""

POLL_SECONDS = 0.5
"""How often somebody with nothing to do looks again."""

TokenCounter = Callable[[int], None]
"""Called with a number of tokens when they have been forwarded."""

Task = TypeVar("Task")
"""What processes work on together; it can be pickled."""


@dataclass(frozen=True)
class Worker:
    """One process: the device it computes on and the threads it does so with."""

    device: str
    threads: int


Work = Callable[[Task, Worker, TokenCounter], None]
"""What a process does: a function of a module, which the process imports."""


def plan_workers(devices: Sequence[str], shards: int, processes: int | None = None) -> list[Worker]:
    """The processes for so many shards. No more threads than cores compute at a time.

    There is one for each GPU. A single device `cpu` is shared by `processes`, or as many as its cores keep busy.
    """
    if shards == 0:
        return []
    if list(devices) != ["cpu"]:
        started = min(len(devices), shards)
        # Beside the thread that forwards, so that another shard can be written meanwhile.
        return [Worker(device, cores_each(started) + 1) for device in devices[:started]]
    wanted = processes if processes is not None else max(1, available_cores() // THREADS_A_PROCESS)
    started = min(wanted, shards)
    return [Worker("cpu", cores_each(started)) for _ in range(started)]


def run_processes(work: Work[Task], subject: Task, workers: Sequence[Worker], count_tokens: TokenCounter) -> list[int | None]:
    """Call `work(subject, worker, count)` in a process for each worker until all have ended, and give their exit codes.

    The tokens that they count arrive at `count_tokens`. An InputError of one of them is raised here, anything else as a
    RuntimeError with its traceback; then the others are ended.
    """
    # A server that has imported everything forks the processes: no start costs seconds, none inherits a thread.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    messages: Any = context.Queue()
    running = [
        context.Process(target=_run_in_process, args=(work, subject, worker, messages), daemon=True) for worker in workers
    ]
    for process in running:
        process.start()
    try:
        while any(process.is_alive() for process in running) or not messages.empty():
            try:
                message = messages.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if isinstance(message, int):
                count_tokens(message)
            elif isinstance(message, InputError):
                raise message
            else:
                raise RuntimeError(f"a collecting process failed:\n{message}")
        return [process.exitcode for process in running]
    finally:
        for process in running:
            process.terminate()
            process.join()


def _run_in_process(work: Work[Task], subject: Task, worker: Worker, messages: Any) -> None:
    """What a process of its own does."""
    end_with_parent()
    try:
        work(subject, worker, messages.put)
    except InputError as error:
        messages.put(error)
    except BaseException:
        messages.put(traceback.format_exc())
        raise


@contextmanager
def one_thread_each(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that each compute alone: packs beside each other keep cores busier than one operation shared by them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


class Abandoned(Exception):
    """Another thread failed, so that what this one waits for will never come."""


def wait_for_all(futures: Sequence[Future[None]]) -> None:
    """Wait for all, then raise what the first that failed by itself raised, not what one that was abandoned did."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Abandoned)):
        raise error
