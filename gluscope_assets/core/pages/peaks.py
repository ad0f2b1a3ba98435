"""The strongest examples by |post| of all neurons of a layer, read a batch of neurons at a time: peaks without their windows.

The explorer's data (`explorer_columns`, `contexts`) and the strips along training (`strips`) are made from them. Examples as
one neuron's page shows them belong to `windows`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import leaf_paths, require_file, row_groups
from gluscope_assets.core.quadrants import QUADRANTS, column
from gluscope_assets.core.tables.examples import ExampleLists

NEURONS_AT_ONCE = 8192
"""Neurons whose peaks are in memory together: 12 bytes an example."""


def read_peaks(path: Path, width: int, neurons: range | None = None) -> Iterator[tuple[int, list[ExampleLists]]]:
    """Batches of neurons: the first one, and each quadrant's list by post, without windows and values.

    Of all `width` neurons, or of at least `neurons`. InputError if the table is of other neurons.
    """
    names = [column(quadrant, "post") for quadrant in QUADRANTS]
    wanted = dict.fromkeys(names, ("post", "text", "position"))
    other = InputError(f"{path} does not hold the {width} neurons of its statistics; delete it and run gluscope build.")
    if pq.read_metadata(require_file(path)).num_rows != width:
        raise other
    for first, batch in _read_batches(path, {"neuron": (), **wanted}, range(width) if neurons is None else neurons):
        if not np.array_equal(batch["neuron"].to_numpy(), np.arange(first, first + len(batch))):
            raise other
        yield first, [ExampleLists.from_arrow(batch[name]) for name in names]


def _read_batches(path: Path, wanted: dict[str, Sequence[str]], rows: range) -> Iterator[tuple[int, pa.Table]]:
    """The first row and a table of at most `NEURONS_AT_ONCE` rows, or of one row group if that is larger; at least `rows`."""
    with pq.ParquetFile(require_file(path)) as file:
        leaves = leaf_paths(file, wanted)
        bounds = enumerate(row_groups(file.metadata))
        wanted_groups = [(group, low, end) for group, (low, end) in bounds if end > rows.start and low < rows.stop]
        while wanted_groups:
            first = wanted_groups[0][1]
            groups = [group for group, _, end in wanted_groups if end - first <= NEURONS_AT_ONCE] or [wanted_groups[0][0]]
            yield first, file.read_row_groups(groups, columns=leaves)
            wanted_groups = wanted_groups[len(groups) :]
