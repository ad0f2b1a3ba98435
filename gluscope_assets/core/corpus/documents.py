"""Where a corpus's documents come from: the running Python's standard library, a folder of text files, a JSONL file.

What belongs here: readers that turn a source into named texts, in an order that depends on the source alone.
What does not: tokens, the cut of documents into texts (``tokenize.py``), and sources that need the network.

Every reader is lazy, so bad input is reported (:class:`~gluscope_assets.core.errors.InputError`) while it is read, not
when the reader is made. Every name and text can be encoded as UTF-8. A document of nothing but white space is left out.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import os
import re
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from gluscope_assets.core.errors import InputError

TEXT_SUFFIXES = frozenset({".txt", ".text", ".md", ".markdown", ".rst", ".py", ".pyi"})
"""Files that :func:`folder` reads; the case of a suffix does not matter."""

TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
"""Folders of the standard library that hold its own tests."""

_INSTALLED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})

# Tables written by a program: thousands of near-equal lines that would fill a neuron's examples with one kind of text.
_TABLES = frozenset(
    {
        "html/entities.py",
        "msilib/schema.py",
        "msilib/sequence.py",
        "msilib/text.py",
        "pydoc_data/topics.py",  # its texts are read as topics/<key>
    }
)
_CHARACTER_TABLE = re.compile(r"^decoding_(table|map) = ", re.MULTILINE)

# Extension modules whose import has an effect outside the module: a terminal escape sequence, a window toolkit.
_NOT_IMPORTED = frozenset({"_tkinter", "readline"})

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_BOUND_PARAMETER = re.compile(r"^\(\$\w+(, /)?(, )?")


@dataclass(frozen=True)
class Document:
    """A named text: one source file, one page of help, one line of a JSONL file."""

    name: str
    text: str


def standard_library() -> Iterator[Document]:
    """Yield the running Python's standard library, sorted by name.

    Three kinds of documents: the source of every module, under its path such as ``json/decoder.py``; the topics of
    ``help()``, as ``topics/<key>``; and the docstrings of modules written in C, as ``docstrings/<module>``. Left out
    are tests, installed packages, generated tables, and modules whose source does not decode or that do not import.
    """
    readers: dict[str, Callable[[], str]] = {}
    for name, path in standard_library_files():
        path_names = name.split("/")
        is_own_module = path_names[0].removesuffix(".py") in sys.stdlib_module_names
        if is_own_module and not TEST_FOLDERS.intersection(path_names) and name not in _TABLES:
            readers[name] = partial(_source, path)
    topics = _topics()
    for key in topics:
        readers[f"topics/{key}"] = partial(topics.__getitem__, key)
    for module_name in sys.stdlib_module_names - _NOT_IMPORTED:
        readers[f"docstrings/{module_name}"] = partial(_docstrings, module_name)
    for name in sorted(readers):
        text = readers[name]()
        if text.strip() and _is_encodable(text):
            yield Document(name, text)


def standard_library_files() -> Iterator[tuple[str, Path]]:
    """Yield (path relative to the standard library, file) of its Python files, tests included, sorted by name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths: list[Path] = []
    for parent, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _INSTALLED_FOLDERS]
        paths += [Path(parent, file) for file in files if file.endswith(".py")]
    yield from sorted((path.relative_to(root).as_posix(), path) for path in paths)


def folder(path: Path) -> Iterator[Document]:
    """Yield every text file below a folder, sorted by name; a name is the path relative to the folder.

    Text files are those with one of :data:`TEXT_SUFFIXES`. Hidden files and what lies in hidden folders are left out.
    """
    if not path.exists():
        raise InputError(f"The folder {path} does not exist; give the path of a folder that holds text files.")
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; give the path of a folder that holds text files.")
    files = [file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() in TEXT_SUFFIXES and file.is_file()]
    is_empty = True
    for name in sorted(file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts)):
        if not _is_encodable(name):
            raise InputError(f"The name of the file {name!a} in {path} is not valid UTF-8; rename the file.")
        text = _decode(b"".join(_lines(path / name)), path / name)
        if text.strip():
            is_empty = False
            yield Document(name, text)
    if is_empty:
        suffixes = ", ".join(sorted(TEXT_SUFFIXES))
        raise InputError(f"The folder {path} holds no text; put files in it that end in one of {suffixes}.")


def jsonl(path: Path, text_field: str) -> Iterator[Document]:
    """Yield the text field of each line of a JSONL file, one JSON object a line; a name is ``<file>:<line number>``.

    Lines count from 1; blank ones are counted and skipped.
    """
    if not path.exists():
        raise InputError(f"The file {path} does not exist; give the path of a JSONL file.")
    if not path.is_file():
        raise InputError(f"{path} is not a file; give the path of a JSONL file.")
    is_empty = True
    offset = 0
    for number, line in enumerate(_lines(path), start=1):
        text = _decode(line, path, offset)
        offset += len(line)
        if not text.strip():
            continue
        value = _text_field(text, text_field, where=f"{path}:{number}")
        if value.strip():
            is_empty = False
            yield Document(f"{path.name}:{number}", value)
    if is_empty:
        raise InputError(f'The file {path} holds no text; put a JSON object with the field "{text_field}" on each line.')


def _text_field(line: str, text_field: str, where: str) -> str:
    """The text in one line of a JSONL file."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); put one JSON object on each line.") from error
    if not isinstance(value, dict):
        raise InputError(f'{where} is not a JSON object; write it as {{"{text_field}": "the text"}}.')
    if text_field not in value:
        fields = "only " + ", ".join(json.dumps(field) for field in value) if value else "nor any other"
        raise InputError(f'{where} has no field "{text_field}", {fields}; name the field that holds the text.')
    text = value[text_field]
    if not isinstance(text, str):
        raise InputError(f'The field "{text_field}" of {where} is not a string; name the field that holds the text.')
    if not _is_encodable(text):
        raise InputError(
            f'The field "{text_field}" of {where} holds half of a surrogate pair, which is no character; remove it.'
        )
    return text


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise InputError(f"The file {path} cannot be read ({error.strerror}); check its permissions.") from error


def _decode(content: bytes, path: Path, offset: int = 0) -> str:
    """Decode strictly; ``offset`` is where the content begins in the file. A byte order mark is dropped."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        where = offset + error.start
        message = f"The file {path} is not valid UTF-8 at byte {where}; save it as UTF-8 or leave it out."
        raise InputError(message) from error
    return text.removeprefix("\ufeff") if offset == 0 else text


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _source(path: Path) -> str:
    """The text of a Python file in the encoding it declares; empty if that fails or if it is a character table."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""
    is_character_table = path.parent.name == "encodings" and _CHARACTER_TABLE.search(text)
    return "" if is_character_table else text


def _topics() -> dict[str, str]:
    """The pages of ``help()``; none where a distribution leaves them out."""
    try:
        module = importlib.import_module("pydoc_data.topics")
    except ImportError:
        return {}
    return dict(module.topics)


def _docstrings(module_name: str) -> str:
    """Signatures and docstrings of the public members of a module written in C; empty for any other module."""
    try:
        specification = importlib.util.find_spec(module_name)
    except (ImportError, ValueError):
        return ""
    loader = getattr(specification, "loader", None)
    is_builtin = loader is importlib.machinery.BuiltinImporter
    if not is_builtin and not isinstance(loader, importlib.machinery.ExtensionFileLoader):
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some modules announce at import that they will be removed
            module = importlib.import_module(module_name)
    except ImportError:
        return ""
    blocks = [f"module {module_name}", _docstring(module)]
    for name, member in _public_members(module):
        if inspect.isclass(member):
            blocks.append(_described(f"class {name}", member))
            for method_name, method in sorted(vars(member).items()):
                # a constant's docstring is that of its class
                if not method_name.startswith("_") and (inspect.isroutine(method) or inspect.isdatadescriptor(method)):
                    blocks.append(_described(f"{name}.{method_name}", method))
        else:
            blocks.append(_described(name, member))
    described = [block for block in blocks[1:] if block]
    return "\n\n".join([blocks[0], *described]) + "\n" if described else ""


def _public_members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The functions and classes that the module itself brings, sorted by name.

    What a program can put into a module while it runs must not show: of a hook such as ``sys.excepthook`` the original
    (``sys.__excepthook__``) is taken, and functions written in Python are left out.
    """
    for name, member in sorted(vars(module).items()):
        if name.startswith("_"):
            continue
        member = getattr(module, f"__{name}__", member)
        is_borrowed = getattr(member, "__module__", None) == "builtins" and module.__name__ != "builtins"
        if (inspect.isclass(member) or inspect.isbuiltin(member)) and not is_borrowed:
            yield name, member


def _described(name: str, member: Any) -> str:
    """``name(signature)`` and the indented docstring; empty if there is no docstring."""
    documentation = _docstring(member)
    if not documentation:
        return ""
    indented = "\n".join(f"    {line}" if line else "" for line in documentation.splitlines())
    return f"{name}{_signature(member)}\n{indented}"


def _docstring(member: Any) -> str:
    documentation = getattr(member, "__doc__", None)
    return _ADDRESS.sub("", inspect.cleandoc(documentation)) if isinstance(documentation, str) else ""


def _signature(member: Any) -> str:
    """The signature as the C code states it, without the bound first parameter; empty if it states none.

    Not ``inspect.signature``: it evaluates defaults, and so depends on which modules happen to be imported.
    """
    signature = getattr(member, "__text_signature__", None)
    return _BOUND_PARAMETER.sub("(", signature) if isinstance(signature, str) else ""
