"""Versions that cannot forget: what makes a stage's results decides its version, and nobody has to list it."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from gluscope_assets.core.pages import templates
from gluscope_assets.core.paths import layer_name
from gluscope_assets.study.closure import ROOT
from gluscope_assets.study.fingerprints import STAGES, code_hash, code_of, code_version, partition_key
from gluscope_assets_tests.conftest import Workplace

FOLLOW_THE_CODE = [name for name, stage in STAGES.items() if stage.number is None]
NUMBERED = [name for name, stage in STAGES.items() if stage.number is not None]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package and of its templates that may be changed."""
    shutil.copytree(ROOT, tmp_path / "package", ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))
    shutil.copytree(templates.template_folder(), tmp_path / "site")
    monkeypatch.setattr(templates, "template_folder", lambda: tmp_path / "site")
    return tmp_path / "package"


def code_files(package: Path) -> set[Path]:
    """All that could decide a version: modules, C sources, templates and static files."""
    site = package.parent / "site"
    modules = (path for path in package.rglob("*") if path.suffix in (".py", ".c") and "demo" not in path.parts)
    return {*modules, *(path for path in site.rglob("*") if path.is_file())}


def test_every_change_of_a_stages_code_changes_its_hash_and_no_other_does(package: Path) -> None:
    before = {stage: code_hash(stage, package) for stage in STAGES}
    inside = {stage: set(code_of(stage, package)) for stage in STAGES}
    assert all(files < code_files(package) for files in inside.values())
    for path in sorted(code_files(package)):
        content = path.read_bytes()
        path.write_bytes(content + (b"<!-- -->" if path.suffix == ".html" else b"\n"))
        changed = {stage for stage in STAGES if code_hash(stage, package) != before[stage]}
        assert changed == {stage for stage in STAGES if path in inside[stage]}, path
        path.write_bytes(content)


def test_what_pages_are_made_with_is_their_code() -> None:
    modules = {str(path.relative_to(ROOT)) for path in code_of("neuron_pages") if path.is_relative_to(ROOT)}
    # Those that a list kept by hand had forgotten, and what decides which neurons get pages.
    assert modules >= {"core/quadrants.py", "core/tables/orientation.py", "core/files.py", "study/sources.py"}
    assert not any(name.startswith(("orchestration/", "commands/", "assets/", "core/site/")) for name in modules)
    filled = {path.name for path in code_of("neuron_pages") if path.suffix == ".html"}
    assert filled == {"base.html", "layer.html", "neuron.html", "picture.html"}


@pytest.mark.parametrize("stage", STAGES)
def test_no_stages_code_names_its_own_hash(stage: str) -> None:
    """Recording a hash must not change it."""
    assert ROOT / "study" / "fingerprints.py" not in code_of(stage)


@pytest.mark.parametrize("stage", NUMBERED)
def test_a_number_was_decided_about_when_the_code_changed(stage: str) -> None:
    declared = STAGES[stage]
    assert declared.recorded == code_hash(stage), (
        f"The code of {stage} has changed. If what it writes changes with it, raise its number {declared.number} in "
        f"study/fingerprints.py; in either case record {code_hash(stage)} there."
    )


@pytest.mark.parametrize("stage", FOLLOW_THE_CODE)
def test_versions_follow_the_code(stage: str, tmp_path: Path, built_tiny: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_version(built_tiny.study, stage)
    assert before.startswith(f"{code_hash(stage)}.")
    shutil.copytree(templates.template_folder(), tmp_path / "site")
    template = tmp_path / "site" / "templates" / "base.html"
    template.write_text(template.read_text() + "<!-- -->")
    monkeypatch.setattr(templates, "template_folder", lambda: tmp_path / "site")
    assert code_version(built_tiny.study, stage) != before


def test_partitions_are_named_as_dagster_names_them() -> None:
    for layer in (0, 7, 42, 100):
        dimensions = {"checkpoint": "step1000-ab12cd3", "layer": layer_name(layer)}
        assert partition_key("step1000-ab12cd3", layer) == str(dg.MultiPartitionKey(dimensions))
