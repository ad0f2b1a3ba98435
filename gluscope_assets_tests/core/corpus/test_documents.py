"""The readers of documents: what each yields, in which order, and what it says about bad input."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gluscope_assets.core.corpus.documents import TEST_FOLDERS, Document, folder, jsonl, standard_library
from gluscope_assets.core.errors import InputError


@pytest.fixture(scope="module")
def library() -> dict[str, str]:
    return {document.name: document.text for document in standard_library()}


def error_of(documents: Iterator[Document]) -> str:
    """The message of the error that reading ends in: one sentence on one line."""
    with pytest.raises(InputError) as caught:
        list(documents)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message
    return message


class TestStandardLibrary:
    def test_names_are_sorted_and_unique(self) -> None:
        names = [document.name for document in standard_library()]
        assert names == sorted(set(names))

    def test_holds_source_under_its_path_in_the_library(self, library: dict[str, str]) -> None:
        assert "class JSONDecoder" in library["json/decoder.py"]

    def test_holds_the_topics_of_help(self, library: dict[str, str]) -> None:
        assert "assignment" in library["topics/assignment"].lower()

    @pytest.mark.parametrize("name", ["builtins", "itertools", "math", "_collections", "sys", "time"])
    def test_holds_docstrings_of_modules_written_in_c(self, library: dict[str, str], name: str) -> None:
        assert library[f"docstrings/{name}"].startswith(f"module {name}\n")

    def test_docstrings_come_with_signatures_and_methods(self, library: dict[str, str]) -> None:
        assert "acos(x, /)\n    Return the arc cosine (measured in radians) of x." in library["docstrings/math"]
        assert "\nclass deque" in library["docstrings/_collections"]
        assert "\ndeque.appendleft" in library["docstrings/_collections"]

    def test_docstrings_of_python_modules_are_not_repeated(self, library: dict[str, str]) -> None:
        assert "docstrings/json" not in library

    def test_leaves_out_tests_and_installed_packages(self, library: dict[str, str]) -> None:
        folders = {part for name in library for part in name.split("/")[:-1]}
        assert not folders & {*TEST_FOLDERS, "site-packages", "dist-packages"}

    @pytest.mark.parametrize("name", ["encodings/cp1252.py", "html/entities.py", "pydoc_data/topics.py"])
    def test_leaves_out_generated_tables(self, library: dict[str, str], name: str) -> None:
        assert name not in library
        assert "encodings/utf_8.py" in library

    def test_leaves_out_modules_of_this_machine(self, library: dict[str, str]) -> None:
        top_level = {name.split("/")[0].removesuffix(".py") for name in library}
        assert top_level - {"docstrings", "topics"} <= sys.stdlib_module_names

    def test_every_text_says_something_in_utf_8(self, library: dict[str, str]) -> None:
        assert all(text.strip() for text in library.values())
        for text in library.values():
            text.encode("utf-8")

    def test_is_as_large_as_a_corpus_needs(self, library: dict[str, str]) -> None:
        assert sum(map(len, library.values())) > 8_000_000

    def test_holds_no_memory_address(self, library: dict[str, str]) -> None:
        docstrings = "".join(text for name, text in library.items() if name.startswith("docstrings/"))
        assert " at 0x" not in docstrings

    def test_does_not_depend_on_replaced_hooks(self, library: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "excepthook", print)
        assert {document.name: document.text for document in standard_library()} == library

    @pytest.mark.parametrize("imported", ["", "import asyncio, curses, sqlite3, unittest.mock"])
    def test_another_process_reads_the_same(self, library: dict[str, str], imported: str) -> None:
        program = (
            f"{imported}\n"
            "import hashlib\n"
            "from gluscope_assets.core.corpus.documents import standard_library\n"
            "documents = {document.name: document.text for document in standard_library()}\n"
            "print(hashlib.sha256(repr(documents).encode()).hexdigest())\n"
        )
        environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[3])}
        result = subprocess.run(  # a fresh environment, and another hash seed than here
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert result.stdout.strip() == hashlib.sha256(repr(library).encode()).hexdigest()
        assert result.stderr == ""

    def test_imports_no_window_toolkit_and_no_torch(self) -> None:
        program = (
            "import sys\n"
            "from gluscope_assets.core.corpus.documents import standard_library\n"
            "list(standard_library())\n"
            "unwanted = {'torch', 'dagster', 'tkinter', '_tkinter', 'turtle', 'antigravity', 'this'}\n"
            "print(sorted(unwanted & set(sys.modules)))\n"
        )
        environment = {"PYTHONPATH": str(Path(__file__).parents[3])}
        result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        assert result.stdout == "[]\n"

    def test_is_lazy(self) -> None:
        first = next(iter(standard_library()))
        assert list(itertools.islice(standard_library(), 1)) == [first]


class TestFolder:
    def test_yields_text_files_sorted_by_relative_path(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "notes.md").write_text("# Notes\n")
        (tmp_path / "b.txt").write_text("bee")
        (tmp_path / "a.py").write_text("a = 1\n")
        assert list(folder(tmp_path)) == [
            Document("a.py", "a = 1\n"),
            Document("b.txt", "bee"),
            Document("sub/notes.md", "# Notes\n"),
        ]

    def test_keeps_text_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "UPPER.TXT").write_bytes("héllo ☃\r\n\ttabs  ".encode())
        assert list(folder(tmp_path)) == [Document("UPPER.TXT", "héllo ☃\r\n\ttabs  ")]

    def test_drops_a_byte_order_mark(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
        assert list(folder(tmp_path)) == [Document("a.txt", "hello")]

    def test_leaves_out_other_hidden_and_blank_files(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("kept")
        (tmp_path / "image.png").write_bytes(b"\x89PNG")
        (tmp_path / "blank.txt").write_text(" \n")
        (tmp_path / ".hidden.txt").write_text("hidden")
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git" / "description.txt").write_text("hidden")
        assert list(folder(tmp_path)) == [Document("a.txt", "kept")]

    def test_missing_folder(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        expected = f"The folder {missing} does not exist; give the path of a folder that holds text files."
        assert error_of(folder(missing)) == expected

    def test_a_file_in_place_of_a_folder(self, tmp_path: Path) -> None:
        file = tmp_path / "a.txt"
        file.write_text("text")
        assert error_of(folder(file)) == f"{file} is not a folder; give the path of a folder that holds text files."

    def test_folder_without_text_files(self, tmp_path: Path) -> None:
        (tmp_path / "image.png").write_bytes(b"\x89PNG")
        assert error_of(folder(tmp_path)).startswith(f"The folder {tmp_path} holds no text; put files in it that end in")

    def test_invalid_utf_8_names_file_and_byte(self, tmp_path: Path) -> None:
        (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait")
        expected = f"The file {tmp_path / 'latin.txt'} is not valid UTF-8 at byte 3; save it as UTF-8 or leave it out."
        assert error_of(folder(tmp_path)) == expected


class TestJsonl:
    def test_yields_the_field_of_each_line(self, tmp_path: Path) -> None:
        file = tmp_path / "texts.jsonl"
        file.write_text('{"text": "one", "id": 7}\n\n{"id": 8, "text": "line\\nbreak \\u2603"}')
        assert list(jsonl(file, "text")) == [
            Document("texts.jsonl:1", "one"),
            Document("texts.jsonl:3", "line\nbreak ☃"),
        ]

    def test_a_line_ends_at_a_line_feed_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "texts.jsonl"
        file.write_bytes('{"text": "a\u2028b\u0085c"}\r\n{"text": "d"}\r\n'.encode())
        assert [document.text for document in jsonl(file, "text")] == ["a\u2028b\u0085c", "d"]

    def test_missing_file(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing.jsonl"
        assert error_of(jsonl(missing, "text")) == f"The file {missing} does not exist; give the path of a JSONL file."

    def test_a_folder_in_place_of_a_file(self, tmp_path: Path) -> None:
        assert error_of(jsonl(tmp_path, "text")) == f"{tmp_path} is not a file; give the path of a JSONL file."

    def test_a_file_without_text(self, tmp_path: Path) -> None:
        file = tmp_path / "empty.jsonl"
        file.write_text("\n")
        expected = f'The file {file} holds no text; put a JSON object with the field "text" on each line.'
        assert error_of(jsonl(file, "text")) == expected

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            (b"[1, 2]", 'is not a JSON object; write it as {"text": "the text"}.'),
            (b'"text"', 'is not a JSON object; write it as {"text": "the text"}.'),
            (b'{"id": 8, "body": ""}', 'has no field "text", only "id", "body"; name the field that holds the text.'),
            (b"{}", 'has no field "text", nor any other; name the field that holds the text.'),
        ],
    )
    def test_a_bad_line_is_named(self, tmp_path: Path, line: bytes, problem: str) -> None:
        file = tmp_path / "texts.jsonl"
        file.write_bytes(b'{"text": "good"}\n' + line + b"\n")
        assert error_of(jsonl(file, "text")) == f"{file}:2 {problem}"

    @pytest.mark.parametrize("line", [b'{"text": ', b"text", b"[" * 100_000])
    def test_a_line_that_is_not_json(self, tmp_path: Path, line: bytes) -> None:
        file = tmp_path / "texts.jsonl"
        file.write_bytes(line)
        message = error_of(jsonl(file, "text"))
        assert message.startswith(f"{file}:1 is not JSON (")
        assert message.endswith("); put one JSON object on each line.")

    @pytest.mark.parametrize("value", [b"7", b"null", b'["a"]'])
    def test_a_field_that_is_not_a_string(self, tmp_path: Path, value: bytes) -> None:
        file = tmp_path / "texts.jsonl"
        file.write_bytes(b'{"text": ' + value + b"}")
        expected = f'The field "text" of {file}:1 is not a string; name the field that holds the text.'
        assert error_of(jsonl(file, "text")) == expected

    def test_half_of_a_surrogate_pair(self, tmp_path: Path) -> None:
        file = tmp_path / "texts.jsonl"
        file.write_bytes(b'{"text": "\\ud83d"}')
        message = error_of(jsonl(file, "text"))
        assert message.startswith(f'The field "text" of {file}:1 holds half of a surrogate pair')

    def test_invalid_utf_8_names_the_byte_of_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "texts.jsonl"
        file.write_bytes(b'{"text": "good"}\n{"text": "caf\xe9"}\n')
        expected = f"The file {file} is not valid UTF-8 at byte 30; save it as UTF-8 or leave it out."
        assert error_of(jsonl(file, "text")) == expected

    def test_earlier_lines_are_read_before_a_bad_one(self, tmp_path: Path) -> None:
        file = tmp_path / "texts.jsonl"
        file.write_text('{"text": "good"}\nbad\n')
        assert next(jsonl(file, "text")) == Document("texts.jsonl:1", "good")
