"""Files are whole or absent, and say where they come from."""

from pathlib import Path

import pyarrow as pa
import pytest

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import (
    hash_files,
    hash_of,
    read_provenance,
    replacing,
    replacing_folder,
    require_file,
    write_parquet,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path) as temporary:
        temporary.write_text((tmp_path / "none").read_text())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for content in ("old", "new"):
        with replacing_folder(folder) as temporary:
            (temporary / "file").write_text(content)
    with pytest.raises(FileNotFoundError), replacing_folder(folder) as temporary:
        (temporary / "file").write_text((tmp_path / "none").read_text())
    assert (folder / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [folder]


def test_provenance_is_in_the_footer_and_bytes_repeat(tmp_path: Path) -> None:
    table = pa.table({"neuron": [1, 2]})
    for name in ("first", "second"):
        write_parquet(table, tmp_path / name, {"weights_hash": "abc", "layer": 3})
    assert read_provenance(tmp_path / "first") == {"layer": 3, "weights_hash": "abc"}
    assert hash_files(tmp_path / "first") == hash_files(tmp_path / "second")


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; run gluscope build"):
        require_file(tmp_path / "none.parquet")


def test_hashes_tell_options_apart() -> None:
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})
    assert hash_of({"a": 1}) != hash_of({"a": 2})
