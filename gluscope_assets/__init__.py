"""GLUScope: what each neuron of a gated MLP does, as Dagster assets.

Import the submodule that is needed: this file imports nothing, so that loading Dagster definitions stays fast.
`open` is for notebooks.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from gluscope_assets.notebook import OpenedStudy

__version__ = "0.1.0"


def open(storage: "str | Path | None" = None, study: "str | Path" = "demo") -> "OpenedStudy":
    """A built study as polars frames: see `notebook.open_study`, which says what the arguments are."""
    from gluscope_assets.notebook import open_study

    return open_study(storage, study)
