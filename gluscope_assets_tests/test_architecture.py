"""The house: arrows point one way, rooms say what is in them, and no function is too long to read."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gluscope_assets

PACKAGE = gluscope_assets.__name__
ROOT = Path(gluscope_assets.__file__).parent
MOST_LINES = 60
MOST_BODY_LINES = 15
"""Of an asset."""
REASON = "Long because"
"""What the docstring of a function says that is longer."""

MODULES = sorted(path for path in ROOT.rglob("*.py"))
ROOMS = sorted(path.parent for path in ROOT.rglob("__init__.py") if path.parent not in (ROOT, ROOT / "demo"))


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """What the linter of imports says of the package in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("module", "upward", "contract"),
    [
        (None, "", ""),
        ("core/pages/formats.py", "from gluscope_assets.core.serve import server", "between the rooms of the core"),
        ("core/errors.py", "from gluscope_assets.core.tables import aggregate", "between the rooms of the core"),
        ("study/batch.py", "from gluscope_assets.orchestration import jobs", "between the rooms of the package"),
        ("study/sources.py", "import dagster", "Core and study know nothing of Dagster"),
        ("core/files.py", "def later():\n    import dagster", "Core and study know nothing of Dagster"),
    ],
)
def test_arrows_point_one_way(module: str | None, upward: str, contract: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))
    shutil.copy(ROOT.parent / "pyproject.toml", tmp_path)
    if module is not None:
        path = tmp_path / PACKAGE / module
        path.write_text(f"{path.read_text()}\n\n{upward}\n")
    said = lint_imports(tmp_path)
    broken = [line for line in said.stdout.splitlines() if "BROKEN" in line]
    assert (said.returncode == 0) == (module is None), said.stdout
    assert any(contract in line for line in broken) or module is None, said.stdout


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of everything that a file imports from the package, `""` for a whole module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            yield from ((node.module or "", name.name) for name in node.names)
        elif isinstance(node, ast.Import):
            yield from ((name.name, "") for name in node.names if name.name.split(".")[0] == PACKAGE)


def entry_points(room: Path) -> set[str]:
    """The names in a room's `__all__`."""
    for node in ast.parse((room / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [target.id for target in node.targets if isinstance(target, ast.Name)] == [
            "__all__"
        ]:
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_a_room_says_what_is_in_it_and_names_its_doors(room: Path) -> None:
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert re.search(r"\b[Nn]ot\b", text), "what does not belong there"
    here = {path.stem for path in room.glob("*.py")} | {path.parent.name for path in room.glob("*/__init__.py")}
    functions = {node.name for node in ast.parse((room / "__init__.py").read_text()).body if isinstance(node, ast.FunctionDef)}
    doors = entry_points(room)
    assert doors
    assert doors <= here | functions
    outside = (path for path in MODULES if room not in path.parents)
    name = ".".join((PACKAGE, *room.relative_to(ROOT).parts))
    used = {
        (imported if module == name else module.removeprefix(f"{name}.").split(".")[0])
        for path in outside
        for module, imported in imports(path)
        if module == name or module.startswith(f"{name}.")
    }
    assert used <= doors, "code outside a room comes through its doors"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_leaves_its_room(path: Path) -> None:
    for module, name in imports(path):
        folder = ROOT.joinpath(*module.split(".")[1:]).parent
        assert not name.startswith("_") or name.startswith("__") or path.parent == folder, f"{name} of {module}"


def test_no_two_things_have_one_name() -> None:
    modules: dict[str, list[str]] = {}
    for path in (path for path in MODULES if "demo" not in path.parts):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            for name in names:
                if not name.startswith("_"):
                    modules.setdefault(name, []).append(str(path.relative_to(ROOT)))
    # A logger is called so everywhere, and a command is called as what it does.
    twice = {name: paths for name, paths in modules.items() if len(paths) > 1 and name not in ("logger", "publish")}
    assert not twice


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_or_say_why_not(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert path.stat().st_size == 0 or ast.get_docstring(tree), "a module says what belongs there"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MOST_LINES or REASON in (ast.get_docstring(node) or ""), f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", sorted((ROOT / "assets").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_assets_only_wire(path: Path) -> None:
    (build,) = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    assert build.name == f"build_{path.stem}"
    for body in (node for node in ast.walk(build) if isinstance(node, ast.FunctionDef) and node is not build):
        assert (body.end_lineno or body.lineno) - body.body[0].lineno < MOST_BODY_LINES
