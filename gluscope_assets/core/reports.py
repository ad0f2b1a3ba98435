"""What a stage says of what it made: plain values by name. How they are kept and shown belongs to whoever runs the stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Metadata = Mapping[str, str | int | float | Path]
"""Names are words, values are counts, shares, seconds, bytes, names and paths."""


@dataclass(frozen=True)
class StageReport:
    """What was made of one layer, or of a stage that has no layers."""

    metadata: Metadata
    table: Path | None = None
    """A table whose columns are worth showing."""
    shown: tuple[str, ...] = ()
    """The columns whose first rows are."""
    pages: tuple[str, ...] = ()
    """Pages worth a link, by their names in the site."""


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
