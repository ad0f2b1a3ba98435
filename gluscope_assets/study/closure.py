"""The code that makes something: the modules that a module imports, directly or not, with the templates that they fill.

Read from the source and not from what is loaded, so that imports inside functions count and nothing is run. What a stage's code
version does with it is decided in `fingerprints`.
"""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import jinja2
import jinja2.meta

import gluscope_assets
from gluscope_assets.core.files import hash_files, hash_of
from gluscope_assets.core.pages import templates

PACKAGE = gluscope_assets.__name__
ROOT = Path(gluscope_assets.__file__).parent


@cache
def import_closure(module: str, root: Path = ROOT) -> tuple[Path, ...]:
    """The files of a module of this package and of all that it imports from the package, by path.

    Imports for type checkers alone do not count: they run nothing. The C source beside a module that compiles it does.
    `root` is the package's folder.
    """
    files: set[Path] = set()
    waiting = [module]
    while waiting:
        path = _file_of(waiting.pop(), root)
        if path is None or path in files:
            continue
        files.add(path)
        # A package runs before the modules in it.
        waiting.extend(".".join((PACKAGE, *folder.parts)) for folder in path.relative_to(root).parents)
        waiting.extend(_imports(path))
    native = [path.with_suffix(".c") for path in files if path.with_suffix(".c").is_file()]
    return tuple(sorted([*files, *native]))


def templates_of(files: Iterable[Path]) -> tuple[Path, ...]:
    """The templates that modules fill, and those that these include or extend, by path.

    ValueError if a module asks for a template whose name does not stand in its source.
    """
    folder = templates.template_folder() / "templates"
    environment = jinja2.Environment(autoescape=True)
    waiting = [name for file in files if file.suffix == ".py" for name in _filled(file)]
    names: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            included = jinja2.meta.find_referenced_templates(environment.parse((folder / name).read_text(encoding="utf-8")))
            waiting.extend(other for other in included if other is not None)
    return tuple(sorted(folder / name for name in names))


def version_of(files: Iterable[Path], root: Path = ROOT) -> str:
    """SHA-256 in hex over the names and contents of files below `root`, or else of the templates' folder."""
    files = tuple(files)
    bases = (root, templates.template_folder())
    names = [next(str(file.relative_to(base)) for base in bases if file.is_relative_to(base)) for file in files]
    return hash_of(names, hash_files(*files))


def _file_of(module: str, root: Path) -> Path | None:
    """The file of a module of this package; None for a name inside a module, for one of another package, and for the package.

    The package itself makes nothing: it has a version, and opens studies for notebooks.
    """
    first, *rest = module.split(".")
    path = root.joinpath(*rest)
    candidates = (path / "__init__.py", path.with_suffix(".py")) if rest and first == PACKAGE else ()
    return next((file for file in candidates if file.is_file()), None)


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """What a file imports; names inside modules are among it and are no modules."""
    imported: list[str] = []
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            imported += (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported += (node.module, *(f"{node.module}.{name.name}" for name in node.names))
        waiting.extend(ast.iter_child_nodes(node))
    return tuple(imported)


@cache
def _filled(path: Path) -> tuple[str, ...]:
    """The names of the templates that a file asks for."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get_template":
            (name,) = node.args
            if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
                raise ValueError(f"{path}, line {node.lineno}: the name of a template must stand where it is asked for")
            names.append(name.value)
    return tuple(names)
