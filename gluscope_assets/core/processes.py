"""Processes: how many this machine keeps busy, and that none outlives the one that started it.

What belongs here: what every stage with processes of its own needs. What a process does, and how it is told, belongs to the
stage.
"""

import multiprocessing
import os
import threading


def available_cores() -> int:
    """The cores that this process may use: a container or a batch system may grant fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def cores_each(processes: int) -> int:
    """The cores of each of so many processes that share `available_cores`, at least one."""
    return max(1, available_cores() // processes)


def end_with_parent() -> None:
    """End this process, from now on, as soon as the one that started it is gone, however that ended.

    Nobody waits for the work of a killed run, and it would keep a GPU busy. Nothing happens in a process that
    `multiprocessing` did not start.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_and_end() -> None:
        parent.join()
        # Without clean-up: other threads may be inside a forward pass.
        os._exit(1)

    threading.Thread(target=wait_and_end, name="end with parent", daemon=True).start()
