"""The home folder of builds: one at a time, and how one goes on after a build that was killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from gluscope_assets.commands.instance import only_build
from gluscope_assets_tests.conftest import Workplace


def test_two_builds_do_not_write_at_once(fresh: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    with only_build():
        assert fresh.build() == 2
    assert f"Another build is running in {fresh.home}" in capsys.readouterr().err


@pytest.mark.parametrize(("sent", "left"), [(signal.SIGKILL, "STARTED"), (signal.SIGINT, "FAILURE")])
def test_a_stopped_build_leaves_no_half_result_and_the_next_one_finishes(
    fresh: Workplace, tmp_path: Path, sent: signal.Signals, left: str
) -> None:
    """Stopped in the middle of the forward pass, when it holds the GPU's slot."""
    reached = tmp_path / "reached"
    code = (
        "import pathlib, signal, sys, time\n"
        "from gluscope_assets.core.collect import job as collect\n"
        "def wait(*arguments, **named):\n"
        f"    pathlib.Path({str(reached)!r}).touch()\n"
        "    time.sleep(600)\n"
        "collect.collect = wait\n"
        # A test runner in the background may have passed on that interrupts are ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from gluscope_assets.commands.main import main\n"
        "sys.exit(main(['build', '--study', *sys.argv[1:]]))\n"
    )
    part = ["--checkpoint", "first", "--layers", "0"]
    build = subprocess.Popen([sys.executable, "-c", code, str(fresh.file), *part], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 300
        while not reached.exists():
            assert build.poll() is None, "the build ended before it collected anything"
            assert time.monotonic() < deadline
            time.sleep(0.2)
        build.send_signal(sent)
        _, printed = build.communicate(timeout=60)
    finally:
        build.kill()
    if sent is signal.SIGINT:
        assert build.returncode == 130
        assert printed.splitlines()[-1] == "Stopped. What was finished is kept."
        assert "Traceback" not in printed
    with fresh.instance as instance:
        stopped = instance.get_runs(limit=1)[0]
    assert stopped.status.value == left
    assert not [name for name in fresh.files() if "shards" in name]
    assert fresh.build(*part) == 0
    with fresh.instance as instance:
        again = instance.get_run_by_id(stopped.run_id)
    assert again is not None
    assert again.status is dg.DagsterRunStatus.FAILURE
    assert (fresh.folder.site / "index.html").is_file()
