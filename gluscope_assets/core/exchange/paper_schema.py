"""The paper's published tables, `*_neuron-activations`: written from aggregates, and read into aggregates.

What belongs here: the names, order and types of its 50 columns, and what they lack of an aggregate. Windows of imported
tables, which need a forward pass, are filled by `windows`; what aggregates hold is in `aggregate`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import hash_files, read_provenance, replacing, replacing_folder, require_file, write_parquet
from gluscope_assets.core.model.activation import activation_function
from gluscope_assets.core.paths import AGGREGATE_FILES, EXAMPLES_FILE, STATISTICS_FILE
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, column, oriented_quadrant

PAPER_ACTIVATIONS = {"post": "hook_post", "in": "hook_pre_linear", "gate": "hook_pre", "act": "swish"}
"""The paper's names of the activations, in the order of its columns."""

ODD = ("in", "post")
"""The activations that change sign with the orientation."""

FEWEST_FOR_DOUBT = 0.1
"""Shares of so few positions are counts exactly; if they are further from whole counts than this on average, the number of
positions is wrong."""
EXACT_POSITIONS = 1 << 20
"""Shares of fewer positions name their counts exactly in float32, with room to spare."""

UNKNOWN = "not in the paper's table"

Array = npt.NDArray[Any]


def _columns() -> Iterator[tuple[str, pa.DataType]]:
    yield from (("layer", pa.int64()), ("neuron", pa.int64()))
    for quadrant in QUADRANTS:
        yield f"{quadrant}_freq", pa.float32()
        for activation, name in PAPER_ACTIVATIONS.items():
            if (quadrant, activation) in LISTS:
                yield f"{quadrant}_{name}_max_values", pa.list_(pa.float32())
                yield f"{quadrant}_{name}_max_indices", pa.list_(pa.int64())
            yield f"{quadrant}_{name}_mean", pa.float32()


def _features(kind: pa.DataType) -> dict[str, object]:
    """A column's type as the library `datasets` writes it."""
    if pa.types.is_list(kind):
        return {"feature": _features(kind.value_type), "_type": "List"}
    return {"dtype": "float32" if pa.types.is_float32(kind) else str(kind), "_type": "Value"}


PAPER_SCHEMA = pa.schema(
    list(_columns()),
    metadata={"huggingface": json.dumps({"info": {"features": {name: _features(kind) for name, kind in _columns()}}})},
)
"""The columns of the paper's tables, with the footer that `datasets` reads."""


# Export


def export_paper(aggregates: Sequence[Path], path: Path, weights: Sequence[Path] = ()) -> None:
    """Write the aggregates of all layers of a checkpoint as one table in the paper's schema; row = layer · width + neuron.

    `aggregates` are the layers' folders. Values are raw; with `weights`, the layers' files, they are oriented, as in the
    paper's refactored tables. A frequency is the share of all counted positions, a mean is taken within the quadrant and
    is NaN where that is empty. A list has K places, signed and by |value| descending; those that no text takes hold 0 and
    text 0. A text's number is its row in the tokenized corpus. One layer is in memory at a time.

    InputError if the layers are not 0, 1, … of one width, for then rows have no such number, or if lists differ in length.
    """
    by_layer = {_number(folder / STATISTICS_FILE, "layer"): folder for folder in aggregates}
    signs = {_number(file, "layer"): file for file in weights}
    widths = {layer: pq.read_metadata(folder / STATISTICS_FILE).num_rows for layer, folder in by_layer.items()}
    if sorted(by_layer) != list(range(len(aggregates))) or len(set(widths.values())) > 1:
        raise InputError(
            f"The paper's tables number neurons layer · width + neuron, and the layers given are "
            f"{', '.join(f'{layer} with {widths[layer]} neurons' for layer in sorted(widths)) or 'none'}; give all layers of a "
            f"model whose layers are of one width."
        )
    lengths = {_number(folder / STATISTICS_FILE, "examples") for folder in aggregates}
    if len(lengths) > 1:
        raise InputError(f"The layers keep lists of {' and '.join(map(str, sorted(lengths)))} examples; collect them alike.")
    missing = sorted(set(by_layer) - set(signs)) if weights else []
    if missing:
        raise InputError(f"weights lacks layer {missing[0]}; give the weights of all layers, or none for raw values.")
    with replacing(path) as temporary, pq.ParquetWriter(temporary, PAPER_SCHEMA, compression="zstd") as writer:
        for layer in sorted(by_layer):
            writer.write_table(_paper_layer(by_layer[layer], layer, max(lengths), signs.get(layer)))


def _number(path: Path, field: str) -> int:
    return cast(int, read_provenance(path)[field])


def _paper_layer(aggregate: Path, layer: int, examples: int, weights: Path | None) -> pa.Table:
    """The rows of one layer."""
    statistics = pq.read_table(aggregate / STATISTICS_FILE)
    lists = _read_lists(aggregate / EXAMPLES_FILE)
    width = statistics.num_rows
    flipped = np.zeros(width, dtype=bool)
    if weights is not None:
        flipped = pq.read_table(require_file(weights), columns=["orientation"])["orientation"].to_numpy() < 0
        if len(flipped) != width:
            raise InputError(f"{weights} has {len(flipped)} neurons and {aggregate} has {width}; give weights of this model.")
    made: dict[str, pa.Array] = {
        "layer": pa.array(np.full(width, layer, dtype=np.int64)),
        "neuron": pa.array(np.arange(width, dtype=np.int64)),
    }
    positions = statistics["positions"].to_numpy().astype(np.float64)

    def oriented(of: Callable[[str], Array], quadrant: str, activation: str | None) -> Array:
        """`of` a quadrant, for neurons that flip of the quadrant that takes its place."""
        other = of(oriented_quadrant(quadrant, -1))
        chosen = flipped.reshape(-1, *(1 for _ in other.shape[1:]))
        return np.where(chosen, -other if activation in ODD else other, of(quadrant))

    def counts(quadrant: str) -> Array:
        return np.asarray(statistics[f"{quadrant}_count"].to_numpy(), dtype=np.float64)

    with np.errstate(invalid="ignore"):
        for quadrant in QUADRANTS:
            made[f"{quadrant}_freq"] = pa.array((oriented(counts, quadrant, None) / positions).astype(np.float32))
            for activation, name in PAPER_ACTIVATIONS.items():

                def mean(quadrant: str, activation: str = activation) -> Array:
                    total = statistics[f"{column(quadrant, activation)}_sum"].fill_null(0.0).to_numpy()
                    return np.asarray(total / counts(quadrant))

                def values(quadrant: str, activation: str = activation) -> Array:
                    return _dense(lists[column(quadrant, activation)], "value", examples)

                def texts(quadrant: str, activation: str = activation) -> Array:
                    return _dense(lists[column(quadrant, activation)], "text", examples)

                if (quadrant, activation) in LISTS:
                    for suffix, of, odd in (("values", values, activation), ("indices", texts, None)):
                        made[f"{quadrant}_{name}_max_{suffix}"] = _lists(oriented(of, quadrant, odd))
                made[f"{quadrant}_{name}_mean"] = pa.array(oriented(mean, quadrant, activation).astype(np.float32))
    return pa.table([made[name] for name in PAPER_SCHEMA.names], schema=PAPER_SCHEMA)


def _read_lists(path: Path) -> pa.Table:
    """The lists of an examples table with values and texts and without windows."""
    file = pq.ParquetFile(require_file(path), memory_map=True)
    names = [column(*ranked) for ranked in LISTS]
    paths = (file.schema.column(place).path for place in range(len(file.schema)))
    wanted = [path for path in paths if path.split(".")[0] in names and path.split(".")[-1] in ("value", "text")]
    return file.read(columns=wanted)


def _dense(lists: pa.ChunkedArray, field: str, examples: int) -> Array:
    """[N, K] of one field of lists of structs, 0 in empty places; texts as int64."""
    joined = lists.combine_chunks()
    lengths = joined.value_lengths().to_numpy()
    values = joined.flatten().field(field).to_numpy()
    dense = np.zeros((len(joined), examples), dtype=np.int64 if field == "text" else np.float32)
    dense[np.arange(examples) < lengths[:, None]] = values
    return dense


def _lists(dense: Array) -> pa.ListArray:
    """Each row as a list."""
    offsets = np.arange(dense.shape[0] + 1, dtype=np.int32) * dense.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(dense).reshape(-1)))


# Import


def import_paper(
    path: Path,
    destination: Callable[[int], Path],
    positions: int,
    activation: str,
    provenance: Mapping[str, object] | None = None,
    mlp: str = "mlp",
) -> list[int]:
    """Write a table of the paper, of raw values, as the aggregates of its layers, and give the layers.

    `destination(layer)` is the folder that is written or replaced, `positions` how many positions the shares are of,
    `activation` the name of σ in `activation.py`, `mlp` the path of the gated MLP inside a layer. `provenance` goes into the
    files' footers beside the table's name and hash; pages read `study`, `checkpoint` and `weights_hash` from there.

    What the table has is kept as it is: counts are shares times positions, sums are means times counts. What it lacks is
    null, never 0: sums of squares, and of examples post (in other lists than those of post), position and window, until
    `windows.fill_windows` fills them. The sample is empty. The largest act for gate+ is σ of the largest gate. A place of a
    list with the value 0 is one that no text takes. Positions that no quadrant has are `zero`.

    InputError if columns or types are not the paper's, rows are not in the order of layer and neuron, or `positions` does
    not fit the shares.
    """
    function = activation_function(activation)
    _check_columns(path)
    order = pl.scan_parquet(path).select("layer", "neuron").collect()
    width = order.filter(pl.col("layer") == 0).height
    layers = list(range(len(order) // width if width else 0))
    expected = pl.DataFrame({"layer": np.repeat(layers, width), "neuron": np.tile(np.arange(width), len(layers))})
    if not width or not order.equals(expected.cast(pl.Int64)):
        raise InputError(f"{path} is not in the order layer · width + neuron, from layer 0; sort its rows by layer and neuron.")
    source = {"imported_from": path.name, "imported_sha256": hash_files(path)}
    for layer in layers:
        rows = pl.scan_parquet(path).slice(layer * width, width).collect()
        counts, zero = _counts(rows, positions, path)
        statistics, examples = _tables(rows, counts, zero, positions, mlp, function.of_array)
        longest = max(cast(int, rows[name].list.len().max()) for name in rows.columns if name.endswith("_max_values"))
        footer = {
            **(provenance or {}),
            **source,
            "activation": activation,
            "layer": layer,
            "positions": positions,
            "examples": longest,
            "window_before": 0,
            "window_after": 0,
            "sample_positions": 0,
            "deviations": UNKNOWN,
            "windows": UNKNOWN,
        }
        neurons = examples.select(["layer", "neuron", "mlp", "expert", "index"])
        nothing = pa.array([[]] * width, pa.list_(pa.float16()))
        sample = neurons.append_column("gate", nothing).append_column("in", nothing)
        kinds = {"hash": pa.uint64(), "text": pa.int32(), "position": pa.int32(), "token": pa.int32()}
        sampled = pa.table({name: pa.array([], kind) for name, kind in kinds.items()})
        with replacing_folder(destination(layer)) as folder:
            for name, table in zip(AGGREGATE_FILES, (statistics, examples, sample, sampled), strict=True):
                write_parquet(table, folder / name, footer)
    return layers


def _check_columns(path: Path) -> None:
    """InputError if a table has other columns or types than the paper's; their order and nullability do not matter."""
    found = {field.name: field.type for field in pq.read_schema(require_file(path))}
    for field in PAPER_SCHEMA:
        if field.name not in found:
            raise InputError(f"{path} lacks the column {field.name}; give a table in the paper's neuron-activations schema.")
        if found[field.name] != field.type:
            raise InputError(f"{path}: {field.name} is {found[field.name]}; the paper's tables have {field.type} there.")


def _counts(rows: pl.DataFrame, positions: int, path: Path) -> tuple[Array, Array]:
    """count [Q, N] and zero [N] of one layer."""
    shares = np.stack([rows[f"{quadrant}_freq"].to_numpy() for quadrant in QUADRANTS]).astype(np.float64)
    exact = shares * positions
    counts = np.rint(exact).astype(np.int64)
    # A share is rounded to 24 bits: from so many positions on its count may be off by some.
    slack = np.floor(exact * 2.0**-24 + 0.5).astype(np.int64).sum(axis=0)
    zero = positions - counts.sum(axis=0)
    doubtful = positions < EXACT_POSITIONS and np.abs(exact - counts).mean() > FEWEST_FOR_DOUBT
    if not np.isfinite(shares).all() or doubtful or (zero < -slack).any():
        raise InputError(
            f"{path} holds shares that are no counts of {positions} positions; give positions, the number of all tokens that "
            f"its table counts."
        )
    rounded = np.abs(zero) <= slack
    largest = counts.argmax(axis=0)
    counts[largest, np.arange(counts.shape[1])] += np.where(rounded, zero, 0)
    return counts, np.where(rounded, 0, zero)


def _tables(
    rows: pl.DataFrame, counts: Array, zero: Array, positions: int, mlp: str, act: Callable[[Array], Array]
) -> tuple[pa.Table, pa.Table]:
    """The statistics and examples of one layer."""
    width = len(rows)
    neurons = {
        "layer": pa.array(rows["layer"].to_numpy().astype(np.int32)),
        "neuron": pa.array(rows["neuron"].to_numpy().astype(np.int32)),
        "mlp": pa.array([mlp] * width, pa.string()),
        "expert": pa.nulls(width, pa.int32()),
        "index": pa.array(rows["neuron"].to_numpy().astype(np.int32)),
    }
    all_positions = pa.array(np.full(width, positions, dtype=np.int64))
    statistics = {**neurons, "routed": all_positions, "positions": all_positions, "zero": pa.array(zero)}
    examples = dict(neurons)
    largest: dict[tuple[str, str], Array] = {}
    for quadrant, activation in LISTS:
        values = _column(rows, quadrant, activation, "max_values")
        texts = _column(rows, quadrant, activation, "max_indices")
        held = np.asarray(values.flatten()) != 0
        first = np.zeros(width + 1, dtype=np.int64)
        np.cumsum(np.bincount(np.repeat(np.arange(width), values.value_lengths())[held], minlength=width), out=first[1:])
        value = np.asarray(values.flatten())[held].astype(np.float32)
        text = np.asarray(texts.flatten())[held].astype(np.int32)
        examples[column(quadrant, activation)] = _examples(first, value, text, activation == "post")
        begun = np.diff(first) > 0
        sizes = np.zeros(width, dtype=np.float32)
        sizes[begun] = np.abs(value[first[:-1][begun]])
        largest[quadrant, activation] = sizes
    for q, quadrant in enumerate(QUADRANTS):
        statistics[f"{quadrant}_count"] = pa.array(counts[q])
        empty = counts[q] == 0
        for activation in ACTIVATIONS:
            prefix, name = column(quadrant, activation), PAPER_ACTIVATIONS[activation]
            mean = rows[f"{quadrant}_{name}_mean"].to_numpy().astype(np.float64)
            sizes = largest[quadrant, activation] if (quadrant, activation) in LISTS else act(largest[quadrant, "gate"])
            statistics[f"{prefix}_sum"] = pa.array(mean * counts[q], mask=empty)
            statistics[f"{prefix}_sum_of_squares"] = pa.nulls(width, pa.float64())
            statistics[f"{prefix}_largest"] = pa.array(sizes, mask=empty)
    return pa.table(statistics), pa.table(examples)


def _column(rows: pl.DataFrame, quadrant: str, activation: str, suffix: str) -> pa.ListArray:
    found = rows[f"{quadrant}_{PAPER_ACTIVATIONS[activation]}_{suffix}"].to_arrow()
    return found.cast(pa.list_(found.type.value_type))


def _examples(first: Array, value: Array, text: Array, is_post: bool) -> pa.ListArray:
    """Lists of examples whose peaks and windows are not known; list i has the entries first[i]:first[i + 1]."""
    count = len(value)
    no_cells = pa.array(np.zeros(count + 1, dtype=np.int32))
    token, cells = pa.array([], pa.int32()), pa.array([], pa.float16())
    struct = pa.StructArray.from_arrays(
        [
            pa.array(value),
            pa.array(value) if is_post else pa.nulls(count, pa.float32()),
            pa.array(text),
            pa.nulls(count, pa.int32()),
            pa.nulls(count, pa.int32()),
            pa.ListArray.from_arrays(no_cells, token),
            pa.ListArray.from_arrays(no_cells, cells),
            pa.ListArray.from_arrays(no_cells, cells),
        ],
        names=["value", "post", "text", "position", "start", "token", "gate", "in"],
    )
    return pa.ListArray.from_arrays(pa.array(first.astype(np.int32)), struct)
