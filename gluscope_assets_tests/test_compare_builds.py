"""The comparison of two builds tells a changed number from a changed version."""

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from gluscope_assets.core.files import read_provenance, write_parquet
from gluscope_assets_tests.conftest import Workplace


def compare(before: Path, after: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gluscope_assets_tests.benchmarks.compare_builds", str(before), str(after)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def table(built_tiny: Workplace, tmp_path: Path) -> Path:
    """The statistics of a layer in a copy of the built study that may be changed."""
    shutil.copytree(built_tiny.folder.root, tmp_path / "tiny")
    return next(iter(sorted((tmp_path / "tiny" / "aggregates").glob("*/layer-01")))) / "statistics.parquet"


def test_a_copy_is_identical(built_tiny: Workplace, table: Path) -> None:
    said = compare(built_tiny.folder.root, table.parents[3])
    assert said.returncode == 0
    assert "different" not in said.stdout


def test_another_version_is_told_from_another_number(built_tiny: Workplace, table: Path) -> None:
    content, provenance = pq.read_table(table), read_provenance(table)
    write_parquet(content, table, {**provenance, "fingerprint": "0" * 32})
    said = compare(built_tiny.folder.root, table.parents[3])
    assert said.returncode == 0
    assert "1 identical apart from versions" in said.stdout
    zero = content.schema.get_field_index("zero")
    write_parquet(content.set_column(zero, "zero", pc.add(content["zero"], pa.scalar(1))), table, provenance)
    said = compare(built_tiny.folder.root, table.parents[3])
    assert said.returncode == 1
    assert f"different: {table.relative_to(table.parents[3])}" in said.stdout


def test_a_page_that_says_something_else_and_one_that_is_missing_are_named(built_tiny: Workplace, table: Path) -> None:
    first, second = sorted((table.parents[3] / "site").glob("*/01/[0-9]*.html"))[:2]
    first.write_text(first.read_text().replace("gate", "gait", 1))
    second.unlink()
    said = compare(built_tiny.folder.root, table.parents[3])
    assert said.returncode == 1
    assert f"different: {first.relative_to(table.parents[3])}" in said.stdout
    assert f"in one build alone: {second.relative_to(table.parents[3])}" in said.stdout
