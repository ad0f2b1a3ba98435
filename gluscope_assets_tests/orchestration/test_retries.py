"""What may pass is tried again and holds nothing while it waits, and what is final ends the run."""

import errno
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from pathlib import Path

import dagster as dg
import httpx2
import pytest
import requests
import torch
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from gluscope_assets.commands.instance import COMMAND_TAGS
from gluscope_assets.core.errors import InputError, OutOfMemory
from gluscope_assets.orchestration import retries
from gluscope_assets.orchestration.resources import GPU_POOL
from gluscope_assets.orchestration.retries import is_transient
from gluscope_assets_tests.support.failing import failing
from gluscope_assets_tests.support.waiting import is_alive, until

# Transient and permanent


def hub_answers(status: int) -> HfHubHTTPError:
    return HfHubHTTPError("no", response=httpx2.Response(status, request=httpx2.Request("GET", "https://hub.example/x")))


def raised_from(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


TRANSIENT = {
    "memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "memory of a context": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    "busy": RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    "ailing": RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    "collecting process": RuntimeError("a collecting process failed:\n...\ntorch.OutOfMemoryError: CUDA out of memory."),
    "refused": ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    "timeout": TimeoutError("timed out"),
    "locked": BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    "no route": OSError(errno.EHOSTUNREACH, "No route to host"),
    "stale file": OSError(errno.ESTALE, "Stale file handle"),
    "name": socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    "urllib": urllib.error.URLError(ConnectionResetError("reset")),
    "requests": requests.exceptions.ConnectionError("refused"),
    "httpx": httpx2.ConnectError("refused"),
    "hub is busy": hub_answers(429),
    "hub is broken": hub_answers(503),
    "wrapped": raised_from(InputError("the Hub cannot be reached; connect."), httpx2.ConnectTimeout("timed out")),
    "pack of another process": pickle.loads(pickle.dumps(OutOfMemory("cuda:1 has no memory for a pack; free some."))),
    "pack": raised_from(InputError("cuda:0 has no memory for a pack; free some."), torch.OutOfMemoryError("out of memory")),
}
PERMANENT = {
    "input": InputError("the study has no such layer; choose another."),
    "input from a file": raised_from(InputError("no such file; give one."), FileNotFoundError(errno.ENOENT, "no such file")),
    "offline": raised_from(InputError("not in the local cache."), OfflineModeIsEnabled("offline mode is enabled")),
    "certificate": requests.exceptions.SSLError("certificate has expired"),
    "hub refuses": hub_answers(403),
    "hub has none": hub_answers(404),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "program": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "assertion": AssertionError("out of memory is only spoken of here"),
    "key": KeyError("busy or unavailable"),
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_what_may_pass_is_transient(name: str) -> None:
    assert is_transient(TRANSIENT[name])


@pytest.mark.parametrize("name", PERMANENT)
def test_what_is_not_known_to_pass_is_permanent(name: str) -> None:
    assert not is_transient(PERMANENT[name])


def test_what_was_being_handled_says_nothing_about_an_error() -> None:
    bug = KeyError("a bug in the handler")
    bug.__context__ = ConnectionError("lost")
    assert not is_transient(bug)


# Tries


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "WAITS", (0.0, 0.0, 0.0))


@pytest.mark.usefixtures("no_waits")
def test_a_stage_is_tried_again_until_it_succeeds(instance: dg.DagsterInstance) -> None:
    tries: list[int] = []
    errors = [TRANSIENT["memory"], TRANSIENT["wrapped"]]
    result = dg.materialize([failing(errors, tries)], instance=instance, raise_on_error=False)
    assert result.success
    assert tries == [0, 1, 2]
    logs = [record.message for record in instance.all_logs(result.run_id)]
    assert any("Try 1 of 4 failed and may pass, next in 0 s: CUDA out of memory" in message for message in logs)


@pytest.mark.usefixtures("no_waits")
def test_tries_end_with_the_error_itself(instance: dg.DagsterInstance) -> None:
    tries: list[int] = []
    result = dg.materialize([failing([TRANSIENT["pack"]] * 9, tries)], instance=instance, raise_on_error=False)
    assert tries == [0, 1, 2, 3]
    (event,) = result.get_step_failure_events()
    assert event.step_failure_data.user_failure_data is not None
    assert event.step_failure_data.user_failure_data.description == "cuda:0 has no memory for a pack; free some."


@pytest.mark.parametrize("name", ["input", "disk", "program"])
def test_what_is_permanent_is_tried_once(name: str, instance: dg.DagsterInstance) -> None:
    tries: list[int] = []
    result = dg.materialize([failing([PERMANENT[name]] * 9, tries)], instance=instance, raise_on_error=False)
    assert not result.success
    assert tries == [0]


def test_bad_input_reaches_the_command_line_as_such() -> None:
    """Which looks for it among the causes of what ended the run."""
    with pytest.raises(dg.Failure) as failed:
        dg.materialize([failing([PERMANENT["input"]], [])])
    assert failed.value.__cause__ is PERMANENT["input"]
    assert failed.value.allow_retries is False


def test_a_command_fails_at_once_because_a_person_waits_for_it() -> None:
    tries: list[int] = []
    result = dg.materialize([failing([TRANSIENT["memory"]], tries)], tags={retries.COMMAND_TAG: "build"}, raise_on_error=False)
    assert not result.success
    assert tries == [0]
    assert set(COMMAND_TAGS) == {retries.COMMAND_TAG}


def test_the_decorator_hides_nothing_of_an_asset_from_dagster() -> None:
    class Place(dg.ConfigurableResource["Place"]):
        name: str

    @dg.asset
    @retries.tried_again_if_transient
    def stage(context: dg.AssetExecutionContext, place: Place) -> dg.MaterializeResult[None]:
        """What it does."""
        return dg.MaterializeResult(metadata={"place": place.name})

    result = dg.materialize([stage], resources={"place": Place(name="here")})
    assert result.asset_materializations_for_node("stage")[0].metadata["place"].value == "here"
    assert stage.key == dg.AssetKey("stage")


def test_a_stage_that_waits_holds_no_slot(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "WAITS", (2.0,))
    instance.event_log_storage.set_concurrency_slots(GPU_POOL, 1)
    tries: list[int] = []
    run = threading.Thread(
        target=dg.materialize, args=([failing([TRANSIENT["memory"]], tries)],), kwargs={"instance": instance}
    )
    run.start()
    waiting = []
    while run.is_alive():
        retried = any(record.is_dagster_event and record.dagster_event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY
                      for found in instance.get_runs() for record in instance.all_logs(found.run_id))  # fmt: skip
        if retried and len(tries) == 1:
            waiting.append(len(instance.event_log_storage.get_concurrency_info(GPU_POOL).claimed_slots))
        time.sleep(0.05)
    run.join()
    assert tries == [0, 1]
    # The last look may see the second try, which has claimed its slot and not begun.
    assert 0 in waiting
    assert not instance.event_log_storage.get_concurrency_info(GPU_POOL).claimed_slots


def step_that_waits(file: str) -> None:
    """What a step's process does, as the test below starts it."""

    @retries.tried_again_if_transient
    def body(context: dg.AssetExecutionContext) -> None:
        Path(file).write_text(str(os.getpid()))
        time.sleep(600)

    body(dg.build_asset_context())


def test_a_step_ends_with_its_killed_run(tmp_path: Path) -> None:
    file = tmp_path / "step"
    code = (
        "import multiprocessing, time; from gluscope_assets_tests.orchestration.test_retries import step_that_waits; "
        f"multiprocessing.get_context('spawn').Process(target=step_that_waits, args=({str(file)!r},)).start(); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as run:
        try:
            until(lambda: file.is_file() and file.read_text() != "")
            step = int(file.read_text())
            os.kill(step, 0)
        finally:
            run.send_signal(signal.SIGKILL)
    until(lambda: not is_alive(step))
