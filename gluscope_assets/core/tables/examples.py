"""Lists of examples: how the structs of the examples table lie in memory, with their one writer and their one reader.

What belongs here: the way between Arrow's lists of structs, whose fields `schema.EXAMPLE` declares, and flat arrays. What does
not: which examples a list keeps (`ranking`), how windows are gathered (`collect`), and what pages show of them (`pages`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gluscope_assets.core.arrays import Integers, offsets_of
from gluscope_assets.core.quadrants import LISTS, column
from gluscope_assets.core.tables import schema


@dataclass(frozen=True)
class ExampleLists:
    """One list column of an examples table for some neurons, flattened: the examples of all neurons, one after the other."""

    first: Integers
    """[neurons + 1]; neuron i has the examples first[i]:first[i + 1], strongest first."""
    window: Integers
    """[examples + 1]; example e has the cells window[e]:window[e + 1] of the fields that are lists."""
    fields: Mapping[str, npt.NDArray[Any] | None]
    """By the names of `schema.EXAMPLE`: [examples], those that are lists [cells]. gate and in are float16 or float32, NaN where
    the token was not routed to the neuron's expert. None of a number that is known of no example."""

    def __getitem__(self, field: str) -> npt.NDArray[Any]:
        """The values of a field that is known."""
        values = self.fields[field]
        assert values is not None, field
        return values

    @classmethod
    def from_arrow(cls, lists: pa.ListArray | pa.ChunkedArray) -> "ExampleLists":
        """The fields that were read of a list column, all or some; integers of examples as int64, so that sums have room.

        An example whose peak is not known, as in imported tables, is left out if positions were read.
        """
        if isinstance(lists, pa.ChunkedArray):
            lists = lists.combine_chunks()
        lists = _with_peaks(lists)
        examples = lists.flatten()
        first = offsets_of(lists.value_lengths().fill_null(0).to_numpy())
        window = np.zeros(len(examples) + 1, dtype=np.int64)
        fields: dict[str, npt.NDArray[Any] | None] = {}
        for field, values in zip(examples.type, examples.flatten(), strict=True):
            if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
                window = offsets_of(values.value_lengths().to_numpy())
                fields[field.name] = values.flatten().to_numpy(zero_copy_only=False)
            else:
                cells = values.to_numpy(zero_copy_only=False)
                fields[field.name] = cells.astype(np.int64) if pa.types.is_integer(field.type) else cells
        return cls(first, window, fields)

    def to_arrow(self) -> pa.ListArray:
        """The list column with all fields of `schema.EXAMPLE`. KeyError if one is missing."""
        examples, window = int(self.first[-1]), pa.array(self.window.astype(np.int32))
        arrays = []
        for field in schema.EXAMPLE.stored:
            values = self.fields[field.name]
            if values is None:
                arrays.append(pa.nulls(examples, field.type))
            elif pa.types.is_list(field.type):
                arrays.append(pa.ListArray.from_arrays(window, _cells(values)))
            else:
                arrays.append(pa.array(values, field.type))
        struct = pa.StructArray.from_arrays(arrays, names=[field.name for field in schema.EXAMPLE.stored])
        return pa.ListArray.from_arrays(pa.array(self.first.astype(np.int32)), struct)


def lists_of_rows(rows: npt.NDArray[Any]) -> pa.ListArray:
    """A list for each row of an array with two axes, null where it is NaN."""
    offsets = np.arange(rows.shape[0] + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), _cells(rows.ravel()))


def _cells(values: npt.NDArray[Any]) -> pa.Array:
    """Cells of windows or of the sample, null for NaN: where the position was not routed to the neuron's expert."""
    missing = np.isnan(values)
    return pa.array(values, mask=missing) if missing.any() else pa.array(values)


def lack_peaks(examples: pa.Table) -> bool:
    """Whether some example of the lists in a table has no peak, as in imported tables that nobody has filled."""
    lists = (examples[name].combine_chunks() for name in (column(*ranked) for ranked in LISTS) if name in examples.column_names)
    return any(one.flatten().field("position").null_count for one in lists)


def _with_peaks(lists: pa.ListArray) -> pa.ListArray:
    """Lists without the examples whose peak is not known."""
    examples = lists.flatten()
    if examples.type.get_field_index("position") < 0 or not examples.field("position").null_count:
        return lists
    has_peak = examples.field("position").is_valid()
    first = offsets_of(has_peak.to_numpy(zero_copy_only=False))
    offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
    return pa.ListArray.from_arrays(pa.array(first[offsets].astype(np.int32)), examples.filter(has_peak))
