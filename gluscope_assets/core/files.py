"""Files: written to a temporary name and renamed, hashed by content, with provenance in the Parquet footer.

What the columns mean belongs to the module that writes them.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.errors import InputError

PROVENANCE_KEY = b"gluscope"
"""The footer's key. Its value is a JSON object of strings and numbers; it never holds a time of day."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success rename it to `path`, on failure delete it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on success it takes the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            path.rename(retired / path.name)
            temporary.rename(path)
            shutil.rmtree(retired)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_parquet(table: pa.Table, path: Path, provenance: Mapping[str, object], row_group_size: int = 64) -> None:
    """Write `table` with `provenance` in its footer. The same table and provenance give the same bytes."""
    metadata = {**(table.schema.metadata or {}), PROVENANCE_KEY: json.dumps(provenance, sort_keys=True).encode()}
    # Dictionaries and statistics of numbers that hardly repeat cost half of the time of writing and save no space.
    names = {field.name: field.type for field in table.schema}
    with replacing(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata(metadata),
            temporary,
            compression="zstd",
            compression_level=3,
            row_group_size=row_group_size,
            use_dictionary=[name for name, kind in names.items() if pa.types.is_string(kind)],
            write_statistics=[name for name, kind in names.items() if not pa.types.is_nested(kind)],
        )


def leaf_paths(file: pq.ParquetFile, wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """What to read of a file: the plain columns that are wanted and, of columns of lists of structs, the fields that are."""
    paths = [file.schema.column(number).path for number in range(len(file.schema))]
    names = [(path, path.split(".")) for path in paths]
    return [path for path, (name, *inner) in names if name in wanted and (not inner or inner[-1] in wanted[name])]


def row_groups(metadata: pq.FileMetaData) -> list[tuple[int, int]]:
    """[first, end) of the rows of each row group of a file."""
    rows = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    return list(pairwise(accumulate(rows, initial=0)))


def read_provenance(path: Path) -> dict[str, object]:
    """The provenance in the footer of a file that `write_parquet` wrote."""
    metadata = pq.read_schema(require_file(path)).metadata or {}
    if PROVENANCE_KEY not in metadata:
        raise InputError(f"{path} has no GLUScope provenance in its footer; delete it and run gluscope build.")
    provenance: dict[str, object] = json.loads(metadata[PROVENANCE_KEY])
    return provenance


def require_file(path: Path) -> Path:
    """`path` itself; InputError if nothing is there."""
    if not path.exists():
        raise InputError(f"{path} does not exist; run gluscope build.")
    return path


def hash_of(*values: object) -> str:
    """SHA-256 in hex of the JSON form of `values`: for options and versions."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 in hex of a file, as the Hub states it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(*paths: Path) -> str:
    """SHA-256 in hex over the contents of `paths`, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        digest.update(b"\0")
    return digest.hexdigest()
