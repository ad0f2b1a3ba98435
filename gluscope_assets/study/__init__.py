"""A study: its file, its checkpoints, what its stages do, and what their results are made from.

Here: everything between a YAML file with options and the computation of `core`, without Dagster, so that a notebook can use
it. What does not belong here: computation (`core`), when and in which process a stage runs (`orchestration`, `commands`).
"""

__all__ = [
    "batch",
    "closure",
    "fingerprints",
    "measurement",
    "registry",
    "sources",
    "stages",
    "study",
]
