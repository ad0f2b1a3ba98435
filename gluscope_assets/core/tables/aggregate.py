"""Quadrant aggregates: their arrays, their files, their merge, and the statistics derived from them.

An activation shard is a quadrant aggregate of part of the corpus: it has the same class and the same files, so a merge
takes aggregates and gives one. What is measured, and how, belongs to `reduction`; where shards lie to `shards`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import read_provenance, replacing_folder, require_file, write_parquet
from gluscope_assets.core.paths import AGGREGATE_FILES, STATISTICS_FILE
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, column

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]

NO_TOKEN = -1
"""The token id of a window's cell outside its text."""

NO_EXPERT = -1
"""The expert of a neuron that sees all tokens."""


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
    expert: Integers
    """[N], -1 for a neuron that sees all tokens."""
    index: Integers
    """[N], the neuron's place in its MLP or expert."""
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
    text: Integers
    """[L, N, K], -1 in empty places, which come last."""
    position: Integers
    """[L, N, K], the peak's position in its text."""
    window_token: Integers
    """[L, N, K, W], -1 outside the text; the peak is at `window_before`."""
    window_gate: npt.NDArray[np.floating]
    """[L, N, K, W], float16, or float32 if a value does not fit."""
    window_in: npt.NDArray[np.floating]
    """[L, N, K, W], as window_gate."""
    window_before: int
    sample_hash: npt.NDArray[np.uint64]
    """[S], ascending."""
    sample_text: Integers
    """[S]"""
    sample_position: Integers
    """[S]"""
    sample_token: Integers
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

    def empty(self) -> "Aggregate":
        """The merge's identity, with this aggregate's layer, neurons and options."""
        shape = {field.name: getattr(self, field.name) for field in fields(self)}
        identity = ("mlp", "expert", "index")
        blank = {
            name: np.zeros_like(array)
            for name, array in shape.items()
            if isinstance(array, np.ndarray) and name not in identity
        }
        blank["text"] += -1
        blank["window_token"] += NO_TOKEN
        for name in ("hash", "text", "position", "token", "gate", "in"):
            blank[f"sample_{name}"] = blank[f"sample_{name}"][:0]
        for name in ("window_gate", "window_in", "sample_gate", "sample_in"):
            blank[name] = blank[name].astype(np.float16)
        return Aggregate(**{**shape, **blank, "positions": 0})


def merge(first: Aggregate, second: Aggregate) -> Aggregate:
    """The aggregate of both parts of the corpus: associative and commutative, sums up to rounding."""
    import torch

    from gluscope_assets.core.tables.ranking import ACT_LISTS, best

    same_shape = (first.layer, first.value.shape, first.window_before, first.window_token.shape) == (
        second.layer,
        second.value.shape,
        second.window_before,
        second.window_token.shape,
    )
    identity = ("mlp", "expert", "index")
    if not same_shape or not all(np.array_equal(getattr(first, name), getattr(second, name)) for name in identity):
        raise InputError("Aggregates of different layers, widths or options cannot be merged; collect the shards again.")
    keep = first.value.shape[-1]

    def both(name: str, axis: int) -> Array:
        joined: Array = np.concatenate([getattr(first, name), getattr(second, name)], axis=axis)
        return joined

    lists = {name: both(name, 2) for name in ("value", "post", "text", "position")}
    tensors = {name: torch.from_numpy(array) for name, array in lists.items()}
    order = best(**tensors, breaks_tie=ACT_LISTS[:, None, None], keep=keep).numpy()
    windows = {name: both(name, 2) for name in ("window_token", "window_gate", "window_in")}
    sampled = np.argsort(both("sample_hash", 0), kind="stable")[: first.sample_positions]
    return Aggregate(
        layer=first.layer,
        positions=first.positions + second.positions,
        **{name: getattr(first, name) for name in identity},
        routed=first.routed + second.routed,
        zero=first.zero + second.zero,
        count=first.count + second.count,
        sum=first.sum + second.sum,
        sum_of_squares=first.sum_of_squares + second.sum_of_squares,
        largest=np.maximum(first.largest, second.largest),
        **{name: np.take_along_axis(array, order, axis=2) for name, array in lists.items()},
        **{name: np.take_along_axis(array, order[..., None], axis=2) for name, array in windows.items()},
        window_before=first.window_before,
        **{
            f"sample_{name}": both(f"sample_{name}", 0)[sampled] for name in ("hash", "text", "position", "token", "gate", "in")
        },
        sample_positions=first.sample_positions,
    )


NEURON_AXIS = {
    **dict.fromkeys(("mlp", "expert", "index", "routed", "zero"), 0),
    **dict.fromkeys(("count", "value", "post", "text", "position"), 1),
    **dict.fromkeys(("window_token", "window_gate", "window_in", "sample_gate", "sample_in"), 1),
    **dict.fromkeys(("sum", "sum_of_squares", "largest"), 2),
}
"""The axis of neurons of each array that has one."""


def concatenate(parts: Sequence[Aggregate]) -> Aggregate:
    """One layer's aggregate from those of its gated MLPs, over the same positions."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts], axis=axis) for name, axis in NEURON_AXIS.items()
    }
    return replace(parts[0], **joined)


def merge_all(aggregates: Iterable[Aggregate]) -> Aggregate:
    """Merge in the order given; one at a time is held beside the result. InputError if there is none."""
    merged: Aggregate | None = None
    for aggregate in aggregates:
        merged = aggregate if merged is None else merge(merged, aggregate)
    if merged is None:
        raise InputError("There is no activation shard to merge; run gluscope build.")
    return merged


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
    """The statistics, examples, sample and positions tables."""
    neurons = {
        "layer": pa.array(np.full(aggregate.neurons, aggregate.layer, dtype=np.int32)),
        "neuron": pa.array(np.arange(aggregate.neurons, dtype=np.int32)),
        "mlp": pa.array(aggregate.mlp.tolist(), pa.string()),
        "expert": pa.array(aggregate.expert, mask=aggregate.expert == NO_EXPERT),
        "index": pa.array(aggregate.index),
    }
    statistics = {
        **neurons,
        "routed": pa.array(aggregate.routed),
        "positions": pa.array(np.full(aggregate.neurons, aggregate.positions, dtype=np.int64)),
        "zero": pa.array(aggregate.zero),
    }
    for q, quadrant in enumerate(QUADRANTS):
        statistics[f"{quadrant}_count"] = pa.array(aggregate.count[q])
        empty = aggregate.count[q] == 0
        for a, activation in enumerate(ACTIVATIONS):
            prefix = column(quadrant, activation)
            statistics[f"{prefix}_sum"] = pa.array(aggregate.sum[q, a], mask=empty)
            statistics[f"{prefix}_sum_of_squares"] = pa.array(aggregate.sum_of_squares[q, a], mask=empty)
            statistics[f"{prefix}_largest"] = pa.array(aggregate.largest[q, a], mask=empty)
    examples = {**neurons}
    aggregate = replace(aggregate, window_gate=narrowest(aggregate.window_gate), window_in=narrowest(aggregate.window_in))
    for number, (quadrant, activation) in enumerate(LISTS):
        examples[column(quadrant, activation)] = _examples_column(aggregate, number)
    sample = {
        **neurons,
        "gate": _lists_of_rows(narrowest(aggregate.sample_gate).T),
        "in": _lists_of_rows(narrowest(aggregate.sample_in).T),
    }
    positions = {
        "hash": pa.array(aggregate.sample_hash),
        "text": pa.array(aggregate.sample_text),
        "position": pa.array(aggregate.sample_position),
        "token": pa.array(aggregate.sample_token),
    }
    return pa.table(statistics), pa.table(examples), pa.table(sample), pa.table(positions)


def narrowest(cells: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """`cells` as float16 if each fits: so that a file's type depends on what it holds, not on how it was merged."""
    if cells.dtype == np.float16 or (np.abs(cells) > np.finfo(np.float16).max).any():
        return cells
    return cells.astype(np.float16)


def _lists_of_rows(rows: Array) -> pa.ListArray:
    offsets = np.arange(rows.shape[0] + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), _cells(np.ascontiguousarray(rows).reshape(-1)))


def _cells(values: Array) -> pa.Array:
    """Values of a window or the sample, null where the position was not routed to the neuron's expert."""
    missing = np.isnan(values)
    return pa.array(values, mask=missing) if missing.any() else pa.array(values)


def _values(cells: pa.Array) -> Array:
    """What `_cells` was given."""
    values: Array = cells.fill_null(np.nan).to_numpy() if cells.null_count else cells.to_numpy()
    return values


def _offsets(lengths: npt.NDArray[np.integer]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _examples_column(aggregate: Aggregate, number: int) -> pa.ListArray:
    held = aggregate.text[number] >= 0
    token = aggregate.window_token[number][held]
    inside = token >= 0
    first = inside.argmax(axis=1) if len(token) else np.zeros(0, dtype=np.int64)
    window_offsets = _offsets(inside.sum(axis=1))

    def window(cells: Array) -> pa.ListArray:
        return pa.ListArray.from_arrays(window_offsets, _cells(cells[inside]))

    struct = pa.StructArray.from_arrays(
        [
            pa.array(aggregate.value[number][held]),
            pa.array(aggregate.post[number][held]),
            pa.array(aggregate.text[number][held]),
            pa.array(aggregate.position[number][held]),
            pa.array((aggregate.position[number][held] - aggregate.window_before + first).astype(np.int32)),
            pa.ListArray.from_arrays(window_offsets, pa.array(token[inside])),
            window(aggregate.window_gate[number][held]),
            window(aggregate.window_in[number][held]),
        ],
        names=["value", "post", "text", "position", "start", "token", "gate", "in"],
    )
    return pa.ListArray.from_arrays(_offsets(held.sum(axis=1)), struct)


def read_aggregate(folder: Path) -> Aggregate:
    """Read what `write_aggregate` wrote."""
    footer = read_provenance(folder / STATISTICS_FILE)
    statistics, examples, sample, positions = (pq.read_table(require_file(folder / name)) for name in AGGREGATE_FILES)
    neurons = statistics.num_rows
    keep, before = int(footer["examples"]), int(footer["window_before"])  # type: ignore[call-overload]
    window = before + 1 + int(footer["window_after"])  # type: ignore[call-overload]

    def stacked(suffix: str, missing: float) -> Array:
        rows = [
            [statistics[f"{column(quadrant, activation)}_{suffix}"].fill_null(missing).to_numpy() for activation in ACTIVATIONS]
            for quadrant in QUADRANTS
        ]
        return np.array(rows)

    lists = [_read_examples(examples[column(*name)], keep, before, window) for name in LISTS]
    sampled = {name: _values(sample[name].combine_chunks().values).reshape(neurons, -1).T for name in ("gate", "in")}
    return Aggregate(
        layer=int(footer["layer"]),  # type: ignore[call-overload]
        positions=int(footer["positions"]),  # type: ignore[call-overload]
        mlp=np.array(statistics["mlp"].to_pylist()),
        expert=statistics["expert"].fill_null(NO_EXPERT).to_numpy(),
        index=statistics["index"].to_numpy(),
        routed=statistics["routed"].to_numpy(),
        zero=statistics["zero"].to_numpy(),
        count=np.array([statistics[f"{quadrant}_count"].to_numpy() for quadrant in QUADRANTS]),
        sum=stacked("sum", 0.0),
        sum_of_squares=stacked("sum_of_squares", 0.0),
        largest=stacked("largest", 0.0),
        **{name: np.stack([parts[name] for parts in lists]) for name in lists[0]},
        window_before=before,
        **{f"sample_{name}": positions[name].to_numpy() for name in ("hash", "text", "position", "token")},
        **{f"sample_{name}": array for name, array in sampled.items()},
        sample_positions=int(footer["sample_positions"]),  # type: ignore[call-overload]
    )


def _read_examples(chunks: pa.ChunkedArray, keep: int, before: int, window: int) -> dict[str, Array]:
    lists = chunks.combine_chunks()
    struct = lists.values
    neurons = len(lists)
    lengths = np.diff(lists.offsets.to_numpy())
    row = np.repeat(np.arange(neurons), lengths)
    place = np.arange(len(struct)) - np.repeat(lists.offsets.to_numpy()[:-1], lengths)
    dense: dict[str, Array] = {}
    for name, missing in (("value", 0), ("post", 0), ("text", -1), ("position", 0)):
        values = struct.field(name).to_numpy()
        dense[name] = np.full((neurons, keep), missing, dtype=values.dtype)
        dense[name][row, place] = values
    spans = struct.field("token")
    cells = np.diff(spans.offsets.to_numpy())
    first = before - (struct.field("position").to_numpy() - struct.field("start").to_numpy())
    cell_row, cell_place = np.repeat(row, cells), np.repeat(place, cells)
    cell = np.arange(cells.sum()) - np.repeat(spans.offsets.to_numpy()[:-1] - first, cells)
    for name, missing in (("token", NO_TOKEN), ("gate", 0), ("in", 0)):
        values = _values(struct.field(name).values)
        dense[f"window_{name}"] = np.full((neurons, keep, window), missing, dtype=values.dtype)
        dense[f"window_{name}"][cell_row, cell_place, cell] = values
    return dense


# Derived statistics


def describe(statistics: pl.LazyFrame) -> pl.LazyFrame:
    """Add `{quadrant}_frequency`, `{quadrant}_routed_frequency`, and each activation's `_mean` and `_std` (population).

    The first is the share of all counted positions, the second that of those routed to the neuron's expert. They are the
    same for a neuron that sees all tokens.
    """
    added: list[pl.Expr] = []
    for quadrant in QUADRANTS:
        count = pl.col(f"{quadrant}_count")
        added.append((count / pl.col("positions")).alias(f"{quadrant}_frequency"))
        added.append((count / pl.col("routed")).alias(f"{quadrant}_routed_frequency"))
        for activation in ACTIVATIONS:
            prefix = column(quadrant, activation)
            mean = pl.col(f"{prefix}_sum") / count
            variance = pl.col(f"{prefix}_sum_of_squares") / count - mean**2
            added += [mean.alias(f"{prefix}_mean"), variance.clip(lower_bound=0).sqrt().alias(f"{prefix}_std")]
    return statistics.with_columns(added)


def scan_statistics(folders: Sequence[Path]) -> pl.LazyFrame:
    """The described statistics of several aggregates' folders, one row a neuron."""
    return describe(pl.scan_parquet([require_file(folder / STATISTICS_FILE) for folder in folders]))
