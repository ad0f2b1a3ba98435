"""What the numbers of a study were measured on, and how: what the index says of corpus, checkpoints and forward passes.

Values only. Recording them belongs to whoever runs the stages, how the index shows them to the template
`overview_measured.html`, the numbers themselves to `overview`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pass:
    """A forward pass with its reduction, as it was recorded when it ran. None is what was not recorded."""

    layers: tuple[int, ...]
    """The layers that it measured."""
    date: str
    """When it ended: day and minute, UTC."""
    tokens: int | None
    """Forwarded in it, special tokens included."""
    seconds: float | None
    resumed: int
    """Shards that an earlier pass, which was stopped, had finished: its time is not in `seconds`."""
    device: str | None
    dtype: str | None
    software: tuple[tuple[str, str], ...]
    """(package, version)"""


@dataclass(frozen=True)
class MeasuredCheckpoint:
    """Where a checkpoint came from and what measuring it cost."""

    name: str
    source: str
    """A Hub repository at a revision, or the name of a folder."""
    weights_hash: str
    """SHA-256 in hex over config.json and the safetensors files."""
    passes: tuple[Pass, ...]


@dataclass(frozen=True)
class Measurement:
    """What the numbers of a study were measured on, and how."""

    description: str
    corpus_hash: str
    """SHA-256 in hex over texts, cut and special tokens."""
    texts: int
    tokens: int
    """Counted: without special tokens, unless the study counts them."""
    options: tuple[tuple[str, str], ...]
    """(option in words, value)"""
    checkpoints: tuple[MeasuredCheckpoint, ...]

    @property
    def seconds(self) -> float | None:
        """Of all passes together; None if one did not record them."""
        seconds = [ran.seconds for checkpoint in self.checkpoints for ran in checkpoint.passes]
        recorded = [value for value in seconds if value is not None]
        return sum(recorded) if recorded and len(recorded) == len(seconds) else None

    @property
    def dates(self) -> tuple[str, ...]:
        """The days of the passes, ascending."""
        return tuple(sorted({ran.date.split()[0] for checkpoint in self.checkpoints for ran in checkpoint.passes}))

    @property
    def software(self) -> dict[str, str]:
        """The version of each package, or its versions where passes differ."""
        versions: dict[str, dict[str, None]] = {}
        for checkpoint in self.checkpoints:
            for ran in checkpoint.passes:
                for package, version in ran.software:
                    versions.setdefault(package, {})[version] = None
        return {package: ", ".join(of_package) for package, of_package in versions.items()}
