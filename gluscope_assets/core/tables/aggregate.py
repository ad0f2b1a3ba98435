"""Quadrant aggregates: their arrays, their files and their merge.

An activation shard is a quadrant aggregate of part of the corpus: it has the same class and the same files, so a merge
takes aggregates and gives one. What is measured, and how, belongs to `reduction`; where shards lie to `shards`; what columns
there are to `schema`; what is derived from them to `statistics`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.arrays import Array, Floats, Indices, offsets_of
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import read_provenance, replacing_folder, require_file, write_parquet
from gluscope_assets.core.paths import AGGREGATE_FILES, EXAMPLES_FILE, STATISTICS_FILE
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, column
from gluscope_assets.core.tables import schema
from gluscope_assets.core.tables.examples import ExampleLists, lack_peaks, lists_of_rows
from gluscope_assets.core.tables.schema import table_of

NO_TOKEN = -1
"""The token id of a window's cell outside its text."""

NO_EXPERT = -1
"""The expert of a neuron that sees all tokens."""

WHICH_NEURONS = ("mlp", "expert", "index")
"""The arrays that say which neurons an aggregate is of."""

SUMS = ("positions", "routed", "zero", "count", "sum", "sum_of_squares")
"""What adds up over texts."""

SAME_FOR_ALL = ("layer", "neuron", "positions")
"""The statistics that are no arrays: one number for all neurons, or the row's."""


@dataclass
class Aggregate:
    """One layer's aggregate. Q quadrants, A activations, L lists, N neurons, K examples, W window positions, S sample.

    The neurons are those of the layer's gated MLPs, one after the other. At a position that is not routed to its expert a
    neuron has no activations: windows and sample hold NaN there.
    """

    layer: int
    positions: int
    """Counted positions."""
    mlp: npt.NDArray[np.str_]
    """[N], the path of the neuron's gated MLP inside the layer."""
    expert: Indices
    """[N], -1 for a neuron that sees all tokens."""
    index: Indices
    """[N], the neuron's number in its MLP or expert."""
    routed: npt.NDArray[np.int64]
    """[N], counted positions that the neuron sees: those routed to its expert, or all."""
    zero: npt.NDArray[np.int64]
    """[N], counted positions where gate or in is exactly 0."""
    count: npt.NDArray[np.int64]
    """[Q, N]"""
    sum: npt.NDArray[np.float64]
    """[Q, A, N]"""
    sum_of_squares: npt.NDArray[np.float64]
    """[Q, A, N]"""
    largest: Floats
    """[Q, A, N], the largest |value|, 0 where the quadrant is empty."""
    value: Floats
    """[L, N, K], the ranked activation at the peak as the model computed it; 0 in empty places."""
    post: Floats
    """[L, N, K], post at the peak."""
    text: Indices
    """[L, N, K], -1 in empty places, which come last."""
    position: Indices
    """[L, N, K], the peak's position in its text."""
    window_token: Indices
    """[L, N, K, W], -1 outside the text; the peak is at `window_before`."""
    window_gate: npt.NDArray[np.floating]
    """[L, N, K, W], float16, or float32 if a value does not fit."""
    window_in: npt.NDArray[np.floating]
    """[L, N, K, W], as window_gate."""
    window_before: int
    sample_hash: npt.NDArray[np.uint64]
    """[S], ascending."""
    sample_text: Indices
    """[S]"""
    sample_position: Indices
    """[S]"""
    sample_token: Indices
    """[S]"""
    sample_gate: npt.NDArray[np.floating]
    """[S, N], float16, or float32 if a value does not fit."""
    sample_in: npt.NDArray[np.floating]
    """[S, N], as sample_gate."""
    sample_positions: int
    """The most positions that the sample may hold."""

    @property
    def neurons(self) -> int:
        return len(self.zero)


def merge(first: Aggregate, second: Aggregate) -> Aggregate:
    """The aggregate of two runs of texts together: associative and commutative, sums up to rounding.

    InputError if the two are of different layers, neurons or options.
    """
    import torch

    from gluscope_assets.core.tables.ranking import ACT_LISTS, best

    shape, other = ((one.layer, one.window_before, *one.window_token.shape) for one in (first, second))
    if shape != other or not all(np.array_equal(getattr(first, name), getattr(second, name)) for name in WHICH_NEURONS):
        raise InputError("Aggregates of different layers, widths or options cannot be merged; collect the shards again.")
    keep = first.value.shape[-1]

    def both(name: str, axis: int) -> Array:
        joined: Array = np.concatenate([getattr(first, name), getattr(second, name)], axis=axis)
        return joined

    examples = {name: both(name, 2) for name in _example_arrays()}  # [L, N, 2 K] and [L, N, 2 K, W]
    ranked = {name: torch.from_numpy(examples[name]) for name in ("value", "post", "text", "position")}
    order = best(**ranked, breaks_tie=ACT_LISTS[:, None, None], keep=keep).numpy()  # [L, N, K]
    sampled = np.argsort(both("sample_hash", 0), kind="stable")[: first.sample_positions]
    merged: dict[str, Any] = {
        **{name: getattr(first, name) + getattr(second, name) for name in SUMS},
        "largest": np.maximum(first.largest, second.largest),
        **{
            name: np.take_along_axis(array, order if array.ndim == 3 else order[..., None], axis=2)
            for name, array in examples.items()
        },
        **{name: both(name, 0)[sampled] for name in _sample_arrays()},
    }
    return replace(first, **merged)


def concatenate(aggregates: Sequence[Aggregate]) -> Aggregate:
    """One layer's aggregate from those of its gated MLPs, over the same positions."""
    if len(aggregates) == 1:
        return aggregates[0]
    neuron_axes = {one.statistic: len(one.index) for one in schema.STATISTICS.stored if one.name not in SAME_FOR_ALL}
    neuron_axes |= dict.fromkeys((*_example_arrays(), "sample_gate", "sample_in"), 1)
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in aggregates], axis=axis) for name, axis in neuron_axes.items()
    }
    return replace(aggregates[0], **joined)


def _example_arrays() -> dict[str, schema.Column]:
    """The arrays that hold the fields of examples. Where a window starts follows from its peak and its tokens."""
    return {
        f"window_{field.name}" if pa.types.is_list(field.type) else field.name: field
        for field in schema.EXAMPLE.stored
        if field.name != "start"
    }


def _sample_arrays() -> list[str]:
    """The arrays of the sample, whose first axis is that of positions."""
    return [*(f"sample_{one.name}" for one in schema.POSITIONS.stored), "sample_gate", "sample_in"]


# Files


def write_aggregate(aggregate: Aggregate, destination: Path, provenance: Mapping[str, object]) -> None:
    """Write the four tables of `aggregate` into the folder `destination`, all or none."""
    with replacing_folder(destination) as folder:
        write_tables(aggregate, folder, provenance)


def write_tables(aggregate: Aggregate, folder: Path, provenance: Mapping[str, object]) -> None:
    """Write the four tables of `aggregate` into an existing folder."""
    footer = {
        **provenance,
        "layer": aggregate.layer,
        "examples": aggregate.value.shape[-1],
        "window_before": aggregate.window_before,
        "window_after": aggregate.window_token.shape[-1] - 1 - aggregate.window_before,
        "sample_positions": aggregate.sample_positions,
        "positions": aggregate.positions,
    }
    for name, table in zip(AGGREGATE_FILES, tables(aggregate), strict=True):
        write_parquet(table, folder / name, footer)


def tables(aggregate: Aggregate) -> tuple[pa.Table, pa.Table, pa.Table, pa.Table]:
    """The statistics, examples, sample and positions tables, as `schema` declares them.

    An array of the aggregate is a statistic, a field of examples or one of the sample by its name.
    """
    neurons = {
        "layer": np.full(aggregate.neurons, aggregate.layer, dtype=np.int32),
        "neuron": np.arange(aggregate.neurons, dtype=np.int32),
        "mlp": aggregate.mlp.tolist(),
        "expert": pa.array(aggregate.expert, mask=aggregate.expert == NO_EXPERT),
        "index": aggregate.index,
    }
    statistics = {**neurons, "positions": np.full(aggregate.neurons, aggregate.positions, dtype=np.int64)}
    for stored in schema.STATISTICS.stored:
        if stored.name not in statistics:
            values = getattr(aggregate, stored.statistic)[stored.index]
            empty = aggregate.count[stored.index[0]] == 0 if stored.quadrant and stored.null else None
            statistics[stored.name] = pa.array(values, mask=empty)
    aggregate = replace(aggregate, window_gate=narrowest(aggregate.window_gate), window_in=narrowest(aggregate.window_in))
    lists = {column(*ranked): _sparse(aggregate, number).to_arrow() for number, ranked in enumerate(LISTS)}
    sample = {name: lists_of_rows(narrowest(getattr(aggregate, f"sample_{name}")).T) for name in ("gate", "in")}
    positions = {stored.name: getattr(aggregate, f"sample_{stored.name}") for stored in schema.POSITIONS.stored}
    return (
        table_of(schema.STATISTICS, statistics),
        table_of(schema.EXAMPLES, {**neurons, **lists}),
        table_of(schema.SAMPLE, {**neurons, **sample}),
        table_of(schema.POSITIONS, positions),
    )


def narrowest(cells: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """`cells` as float16 if each fits: so that a file's type depends on what it holds, not on how it was merged."""
    if cells.dtype == np.float16 or (np.abs(cells) > np.finfo(np.float16).max).any():
        return cells
    return cells.astype(np.float16)


def _sparse(aggregate: Aggregate, number: int) -> ExampleLists:
    """One list, without its empty places and the cells outside of texts."""
    held = aggregate.text[number] >= 0  # [N, K]
    inside = aggregate.window_token[number][held] >= 0  # [examples, W]
    first = inside.argmax(axis=1) if len(inside) else np.zeros(0, dtype=np.int64)
    fields: dict[str, Array | None] = {"start": aggregate.position[number][held] - aggregate.window_before + first}
    for name, field in _example_arrays().items():
        values = getattr(aggregate, name)[number][held]
        fields[field.name] = values[inside] if values.ndim == 2 else values
    return ExampleLists(offsets_of(held.sum(axis=1)), offsets_of(inside.sum(axis=1)), fields)


def read_aggregate(folder: Path) -> Aggregate:
    """Read what `write_aggregate` wrote. InputError if a table is missing, is not as `schema` declares it, or lacks peaks."""
    footer = read_provenance(folder / STATISTICS_FILE)
    declared = (schema.STATISTICS, schema.EXAMPLES, schema.SAMPLE, schema.POSITIONS)
    paths = [require_file(folder / name) for name in AGGREGATE_FILES]
    statistics, examples, sample, positions = map(pq.read_table, paths)
    for path, table, stored in zip(paths, declared, (statistics, examples, sample, positions), strict=True):
        table.check(stored.schema, path)
    if lack_peaks(examples):
        raise InputError(f"{folder / EXAMPLES_FILE} has examples without windows, as imported tables do; fill them first.")
    keep, before = int(footer["examples"]), int(footer["window_before"])  # type: ignore[call-overload]
    window = before + 1 + int(footer["window_after"])  # type: ignore[call-overload]
    lists = [_dense(ExampleLists.from_arrow(examples[column(*ranked)]), keep, before, window) for ranked in LISTS]
    sampled = {}
    for name in ("gate", "in"):
        cells = sample[name].combine_chunks().values.to_numpy(zero_copy_only=False)
        sampled[f"sample_{name}"] = cells.reshape(statistics.num_rows, -1).T
    return Aggregate(
        layer=int(footer["layer"]),  # type: ignore[call-overload]
        positions=int(footer["positions"]),  # type: ignore[call-overload]
        **_arrays(statistics),
        **{name: np.stack([one[name] for one in lists]) for name in lists[0]},
        window_before=before,
        **{f"sample_{stored.name}": positions[stored.name].to_numpy() for stored in schema.POSITIONS.stored},
        **sampled,
        sample_positions=int(footer["sample_positions"]),  # type: ignore[call-overload]
    )


def _arrays(statistics: pa.Table) -> dict[str, Array]:
    """The arrays of a statistics table: [N], [Q, N] and [Q, A, N]; 0 where a quadrant is empty."""
    cells: dict[tuple[str, int], list[Array]] = {}
    for stored in schema.STATISTICS.stored:
        if stored.name in SAME_FOR_ALL:
            continue
        values = statistics[stored.name]
        if stored.null:
            values = values.fill_null(NO_EXPERT if stored.name == "expert" else 0)
        row = np.array(values.to_pylist()) if pa.types.is_string(stored.type) else values.to_numpy()
        cells.setdefault((stored.statistic, len(stored.index)), []).append(row)
    axes = (len(QUADRANTS), len(ACTIVATIONS))
    return {name: np.reshape(rows, (*axes[:depth], statistics.num_rows)) for (name, depth), rows in cells.items()}


def _dense(lists: ExampleLists, keep: int, before: int, window: int) -> dict[str, Array]:
    """One list by the names of an aggregate's arrays: [N, K], and windows [N, K, W] with the peak at `before`."""
    neurons, lengths = len(lists.first) - 1, np.diff(lists.first)
    row = np.repeat(np.arange(neurons), lengths)
    rank = np.arange(lists.first[-1]) - np.repeat(lists.first[:-1], lengths)
    cells = np.diff(lists.window)
    cell_row, cell_rank = np.repeat(row, cells), np.repeat(rank, cells)
    left = before - (lists["position"] - lists["start"])
    cell = np.arange(lists.window[-1]) - np.repeat(lists.window[:-1] - left, cells)
    dense = {}
    for name, field in _example_arrays().items():
        values, missing = lists[field.name], {"text": -1, "token": NO_TOKEN}.get(field.name, 0)
        kind = np.int32 if values.dtype.kind == "i" else values.dtype
        if pa.types.is_list(field.type):
            array = np.full((neurons, keep, window), missing, dtype=kind)
            array[cell_row, cell_rank, cell] = values
        else:
            array = np.full((neurons, keep), missing, dtype=kind)
            array[row, rank] = values
        dense[name] = array
    return dense
