"""The benchmark of pages, which is run by hand with a browser, run on the synthetic site."""

import subprocess
import sys
from pathlib import Path

import pytest

from gluscope_assets_tests.site.conftest import LATE, needs_chromium

pytestmark = needs_chromium


def run(module: str, *arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """A module of the tests as a command, with its own home folder."""
    command = [sys.executable, "-m", f"gluscope_assets_tests.{module}", *map(str, arguments)]
    environment = {"PATH": "/usr/bin:/bin", "GLUSCOPE_HOME": str(home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_the_benchmark_says_what_a_page_costs(site: Path, tmp_path: Path) -> None:
    done = run("benchmarks.pages", site, "--neurons", "2", "--runs", "1", home=tmp_path)
    # Whether times stay below their limits depends on how busy this machine is.
    assert done.stderr == "" or done.stderr.startswith("Missed: "), done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith(f"| {LATE}/") and " ms " in line]
    assert [row[0].removeprefix("| ") for row in rows] == [f"{LATE}/00/0.html", f"{LATE}/01/0.html"]
    for row in rows:
        assert row[-1] == "2 |"
        before, in_all = float(row[-3]), float(row[-2])
        assert 10 < before < in_all < 120


@pytest.mark.parametrize("module", ["screenshots", "benchmarks.pages"])
def test_a_missing_site_is_one_sentence(module: str, tmp_path: Path) -> None:
    done = run(module, home=tmp_path)
    assert done.returncode == 1
    site = tmp_path / "demo" / "site"
    assert done.stderr == f"{site} holds no site with neuron pages; run make demo first, or name a folder that does.\n"
