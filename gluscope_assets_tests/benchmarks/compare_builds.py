"""Whether two builds of a study hold the same, to the byte, but for the versions of the code that made them.

Run by `python -m gluscope_assets_tests.benchmarks.compare_builds BEFORE AFTER`, where both are a study's folder such as
`.gluscope/demo`. Versions are fingerprints, code versions and what is hashed over files that name them. Of a Parquet file all
bytes before the footer are compared, and of the footer everything but versions; of all other files the bytes, with the versions
that the build itself records masked. `index.html` is left out: it says when and how fast things ran.
"""

import argparse
import json
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

VERSION_FIELDS = ("fingerprint", "code_version", "inputs", "sha256", "shards")
"""Fields that hold versions: in provenance, in a manifest of a shard, and in the record of a collection."""

LEFT_OUT = ("index.html", "published.json")


def without_versions(value: Any) -> Any:
    """JSON without its version fields. A number of shards is no version."""
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if name not in VERSION_FIELDS or isinstance(item, int)}
        return {name: without_versions(item) for name, item in kept.items()}
    return [without_versions(item) for item in value] if isinstance(value, list) else value


def strings(value: Any) -> Iterator[str]:
    """All strings in JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def parquet_contents(path: Path) -> tuple[bytes, Any]:
    """The bytes before the footer, and what the footer says."""
    content = path.read_bytes()
    (length,) = struct.unpack("<I", content[-8:-4])
    metadata = pq.read_metadata(path)
    facts = metadata.to_dict()
    facts.pop("serialized_size")
    schema = metadata.schema.to_arrow_schema()
    said = {name.decode(): json.loads(value) for name, value in (schema.metadata or {}).items()}
    return content[: -8 - length], [facts, str(schema.remove_metadata()), without_versions(said)]


def versions_of(root: Path) -> list[bytes]:
    """All version strings that the files of a build record, and how pages shorten them; the longest first."""
    held: set[str] = set()
    for path in root.rglob("*"):
        if path.suffix == ".parquet":
            provenance = json.loads((pq.read_schema(path).metadata or {}).get(b"gluscope", b"{}"))
        elif path.suffix == ".json" and not {"checkpoints.json"} & {path.name}:
            provenance = json.loads(path.read_text())
        else:
            continue
        held.update(text for name in VERSION_FIELDS for text in strings(provenance.get(name)) if len(text) >= 12)
    return sorted({version.encode() for text in held for version in (text, text[:12])}, key=len, reverse=True)


def masked(path: Path, versions: list[bytes]) -> bytes:
    """A file's content without versions."""
    if path.suffix == ".json":
        return json.dumps(without_versions(json.loads(path.read_text()))).encode()
    content = path.read_bytes()
    for version in versions:
        content = content.replace(version, b"<version>")
    return content


def compare(before: Path, after: Path) -> Counter[str]:
    """How many files are of which kind; those that differ are printed."""
    names = {
        path.relative_to(root)
        for root in (before, after)
        for path in root.rglob("*")
        if path.is_file() and ".claims" not in path.parts
    }
    versions = [versions_of(root) for root in (before, after)]
    kinds: Counter[str] = Counter()
    for name in sorted(names):
        first, second = before / name, after / name
        if name.name in LEFT_OUT and len(name.parts) == 2:
            kind = "left out"
        elif not (first.is_file() and second.is_file()):
            kind = "in one build alone"
        elif first.read_bytes() == second.read_bytes():
            kind = "identical"
        elif name.suffix == ".parquet":
            kind = "identical apart from versions" if parquet_contents(first) == parquet_contents(second) else "different"
        else:
            same = masked(first, versions[0]) == masked(second, versions[1])
            kind = "identical apart from versions" if same else "different"
        if kind in ("different", "in one build alone"):
            print(f"{kind}: {name}")
        kinds[kind] += 1
    return kinds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    kinds = compare(options.before, options.after)
    print(f"{sum(kinds.values()):,} files: " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items())))
    return (
        1
        if kinds["different"] or kinds["in one build alone"] or not kinds["identical apart from versions"] + kinds["identical"]
        else 0
    )


if __name__ == "__main__":
    sys.exit(main())
