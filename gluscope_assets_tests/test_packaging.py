"""What is shipped: the wheel holds templates and demo data and works where it is installed; versions are pinned."""

import os
import re
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

import gluscope_assets

ROOT = Path(gluscope_assets.__file__).parents[1]
REQUIREMENT = re.compile(r"[A-Za-z0-9_.-]+")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what is tracked, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(folder / "source")],
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_templates_studies_and_demo_checkpoints(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("templates", "static"):
        for path in (ROOT / "site" / folder).rglob("*"):
            if path.is_file():
                assert f"gluscope_assets/_site/{path.relative_to(ROOT / 'site').as_posix()}" in names
    demo = yaml.safe_load((ROOT / "gluscope_assets" / "study" / "demo.yaml").read_text())
    for checkpoint in demo["model"]["checkpoints"]:
        folder = checkpoint["path"].removeprefix("../")
        assert {f"gluscope_assets/{folder}/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")} <= names
    assert {"gluscope_assets/study/demo.yaml", "gluscope_assets/py.typed"} <= names
    assert not [name for name in names if "_tests" in name or "__pycache__" in name]


def test_the_wheel_works_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)],
        check=True,
    )
    code = (
        "import gluscope_assets, sys\n"
        "from gluscope_assets.commands.main import main\n"
        "from gluscope_assets.core.pages.templates import template_folder\n"
        "print(gluscope_assets.__file__, template_folder(), sep='\\n')\n"
        "sys.exit(main(['studies']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(target), "GLUSCOPE_HOME": str(tmp_path / "home"), "COLUMNS": "200"}
    environment.pop("GLUSCOPE_STUDIES", None)
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    package, templates, *table = answer.stdout.splitlines()
    assert Path(package).is_relative_to(target)
    assert Path(templates) == target / "gluscope_assets" / "_site"
    rows = [row for row in table if row.split()[:1] == ["demo"]]
    assert rows
    assert all(row.rstrip().endswith("not built") for row in rows)


def test_every_dependency_is_pinned() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    ranges = setup["options"]["install_requires"].split() + setup["options.extras_require"]["dev"].split()
    pinned = {
        line.split("==")[0].lower().replace("_", "-"): line.split("==")[1]
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    for requirement in ranges:
        name = REQUIREMENT.match(requirement)
        assert name is not None
        assert name[0].lower().replace("_", "-") in pinned, requirement
    assert pinned["torch"] == "2.13.0"
    assert not [name for name in pinned if name.startswith(("nvidia", "cuda", "triton"))]
    assert not [version for version in pinned.values() if "+" in version], "a local version exists on one machine only"


def test_the_environment_holds_what_is_pinned() -> None:
    from importlib.metadata import PackageNotFoundError, version

    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if "==" in line:
            name, pinned = line.split("==")
            try:
                assert version(name).partition("+")[0] == pinned, name
            except PackageNotFoundError:
                # A package that only another platform or the building of a fresh environment needs.
                continue


def test_the_demo_is_small() -> None:
    checkpoints = ROOT / "gluscope_assets" / "demo" / "checkpoints"
    assert sum(path.stat().st_size for path in checkpoints.rglob("*") if path.is_file()) <= 15_000_000


def test_ci_runs_the_documented_commands() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step.get("run") for step in workflow["jobs"]["test"]["steps"]]
    assert ".ci/run" in steps
    assert "make demo" in steps
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_citation_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (paper,) = citation["references"]
    assert paper["title"] == "GLUScope: A Tool for Analyzing GLU Neurons in Transformer Language Models"
    assert [author["family-names"] for author in paper["authors"]] == ["Gerstner", "Schütze"]
    assert citation["version"] == gluscope_assets.__version__
