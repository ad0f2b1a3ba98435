"""The README's commands that need no demo, run: a study of one's own, `make lint`, and what takes long, with little to do."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gluscope_assets_tests.support.tiny import write_checkpoint, write_corpus
from gluscope_assets_tests.test_readme import ROOT, blocks, make

BIN = Path(sys.executable).parent


def test_a_study_of_ones_own(tmp_path: Path) -> None:
    block = blocks("yaml")[0]
    (tmp_path / "mine.yaml").write_text(block)
    write_corpus(tmp_path / "texts")
    write_checkpoint(tmp_path / "checkpoints" / "step1000", seed=0)
    (commands,) = [block for block in blocks("bash") if "GLUSCOPE_STUDIES" in block]
    environment = {name: value for name, value in os.environ.items() if name != "GLUSCOPE_HOME"}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "LlamaModel" in done.stdout
    assert "everything is fresh" in done.stdout
    assert len(list((tmp_path / ".gluscope" / "mine" / "site").glob("step1000-*/*/[0-9]*.html"))) == 2 * 12
    assert len(list((tmp_path / "public").glob("step1000-*/*/[0-9]*.html"))) == 2 * 12
    assert pq.read_table(tmp_path / "neuron-activations.parquet").num_rows == 2 * 12
    assert "license: mit" in (tmp_path / "exported" / "README.md").read_text()


def test_make_lint_is_clean(tmp_path: Path) -> None:
    done = make("lint", tmp_path)
    assert done.returncode == 0, done.stdout


def test_make_test_runs_all_tests_and_make_demo_model_the_training(tmp_path: Path) -> None:
    assert make("test", tmp_path, "-n").stdout.strip().endswith("python -m pytest")
    command = make("demo-model", tmp_path, "-n").stdout.strip().splitlines()[-1]
    little = ["--cycles", "1", "--documents", "100"]
    small = [*command.split(), *little, "--out", str(tmp_path / "out"), "--state", str(tmp_path / "state")]
    done = subprocess.run(small, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").rglob("model.safetensors"))


@pytest.mark.parametrize(
    ("target", "little", "shown"),
    [
        ("bench", ["--quick", "--no-memory"], "collected / bare"),
        ("numerics", ["--texts", "2"], "bfloat16 against float32"),
        ("soak", ["--kills", "2", "--shards", "6"], "the same files: True"),
    ],
)
def test_benchmarks_run(target: str, little: list[str], shown: str, tmp_path: Path) -> None:
    command = make(target, tmp_path, "-n").stdout.strip().splitlines()[-1]
    # Without the real model, as on any other machine.
    environment = {**os.environ, "GLUSCOPE_SHARED_DATA": str(tmp_path / "absent")}
    done = subprocess.run([*command.split(), *little], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
