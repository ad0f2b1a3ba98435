"""The code of a stage: every module that makes its results counts, and none other."""

import shutil
from pathlib import Path

import pytest

from gluscope_assets.core.pages.templates import template_folder
from gluscope_assets.study.closure import PACKAGE, ROOT, import_closure, templates_of


def write_package(root: Path, **modules: str) -> Path:
    for name, content in modules.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(content)
    return root


def names(files: tuple[Path, ...], root: Path) -> list[str]:
    return [str(file.relative_to(root)) for file in files]


def test_imports_count_wherever_they_stand_and_type_checking_alone_does_not(tmp_path: Path) -> None:
    root = write_package(
        tmp_path,
        a__start=(
            "from typing import TYPE_CHECKING\nimport os\n"
            f"from {PACKAGE}.a import sibling\nfrom {PACKAGE}.b.thing import name\n"
            f"if TYPE_CHECKING:\n    from {PACKAGE}.b.typed import Kind\nelse:\n    from {PACKAGE}.b.untyped import Kind\n"
            f"def later():\n    import {PACKAGE}.c.lazy\n"
        ),
        a__sibling="",
        a__stranger="",
        b__thing=f"from {PACKAGE} import version\nfrom {PACKAGE}.a.start import later\n",
        b__typed="",
        b__untyped="",
        c__lazy="",
    )
    (root / "c" / "lazy.c").touch()
    assert names(import_closure(f"{PACKAGE}.a.start", root), root) == [
        "a/__init__.py", "a/sibling.py", "a/start.py", "b/__init__.py", "b/thing.py", "b/untyped.py",
        "c/__init__.py", "c/lazy.c", "c/lazy.py",
    ]  # fmt: skip


def test_templates_are_those_that_are_filled_with_what_they_include(tmp_path: Path) -> None:
    folder = template_folder() / "templates"
    root = write_package(tmp_path, a__start='environment().get_template("neuron.html")\n')
    expected = ["base.html", "neuron.html", "picture.html"]
    assert [path.name for path in templates_of(import_closure(f"{PACKAGE}.a.start", root))] == expected
    assert all((folder / name).is_file() for name in expected)


def test_a_template_whose_name_is_not_in_the_source_is_refused(tmp_path: Path) -> None:
    root = write_package(tmp_path, a__start="environment().get_template(name)\n")
    with pytest.raises(ValueError, match="line 1"):
        templates_of(import_closure(f"{PACKAGE}.a.start", root))


def test_a_copy_of_the_package_has_the_same_closure(tmp_path: Path) -> None:
    shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))
    module = f"{PACKAGE}.study.stages.neuron_pages"
    assert names(import_closure(module, tmp_path / "copy"), tmp_path / "copy") == names(import_closure(module), ROOT)


def test_pages_are_made_without_opening_a_model() -> None:
    closure = {path.relative_to(ROOT).as_posix() for path in import_closure(f"{PACKAGE}.study.stages.neuron_pages")}
    assert "core/model/checkpoint.py" in closure
    assert not closure & {f"core/model/{name}.py" for name in ("loading", "anatomy", "taps", "tracing", "weights")}
