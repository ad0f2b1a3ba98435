"""The paper's published tables, `*_neuron-activations`: written from aggregates, and read into aggregates.

What belongs here: the names, order and types of its 50 columns, and what they lack of an aggregate. Windows of imported
tables, which need a forward pass, are filled by `collect/window_filling`; what aggregates hold is declared in `tables/schema`.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.arrays import Array, offsets_of
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import (
    hash_files,
    leaf_paths,
    read_provenance,
    replacing,
    replacing_folder,
    require_file,
    write_parquet,
)
from gluscope_assets.core.model.activation import activation_function
from gluscope_assets.core.paths import AGGREGATE_FILES, EXAMPLES_FILE, STATISTICS_FILE
from gluscope_assets.core.quadrants import LISTS, ODD, QUADRANTS, column, oriented_quadrant
from gluscope_assets.core.tables import schema
from gluscope_assets.core.tables.examples import ExampleLists, lists_of_rows
from gluscope_assets.core.tables.schema import table_of
from gluscope_assets.core.tables.statistics import described

PAPER_ACTIVATIONS = {"post": "hook_post", "in": "hook_pre_linear", "gate": "hook_pre", "act": "swish"}
"""The paper's names of the activations, in the order of its columns."""

FEWEST_FOR_DOUBT = 0.1
"""Shares of so few positions are counts exactly; if they are further from whole counts than this on average, the number of
positions is wrong."""
EXACT_POSITIONS = 1 << 20
"""Shares of fewer positions name their counts exactly in float32, with room to spare."""

UNKNOWN = "not in the paper's table"


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
    statistics, lists = described(pq.read_table(aggregate / STATISTICS_FILE)), _read_lists(aggregate / EXAMPLES_FILE)
    width = statistics.num_rows
    flipped = np.zeros(width, dtype=bool)
    if weights is not None:
        flipped = pq.read_table(require_file(weights), columns=["orientation"])["orientation"].to_numpy() < 0
        if len(flipped) != width:
            raise InputError(f"{weights} has {len(flipped)} neurons and {aggregate} has {width}; give weights of this model.")
    columns: dict[str, pa.Array] = {
        "layer": pa.array(np.full(width, layer, dtype=np.int64)),
        "neuron": pa.array(np.arange(width, dtype=np.int64)),
    }
    raw = {quadrant: _paper_quadrant(statistics, lists, quadrant, examples) for quadrant in QUADRANTS}
    for quadrant, own in raw.items():
        other = raw[oriented_quadrant(quadrant, -1)]
        for name, (values, is_odd) in own.items():
            turned = -other[name][0] if is_odd else other[name][0]
            shown = np.where(flipped.reshape(-1, *(1 for _ in values.shape[1:])), turned, values)  # [N] or [N, K]
            columns[f"{quadrant}_{name}"] = lists_of_rows(shown) if shown.ndim == 2 else pa.array(shown)
    return pa.table([columns[name] for name in PAPER_SCHEMA.names], schema=PAPER_SCHEMA)


def _paper_quadrant(statistics: pa.Table, lists: pa.Table, quadrant: str, examples: int) -> dict[str, tuple[Array, bool]]:
    """The columns of one raw quadrant, [N] or [N, K], by their names without it, and whether they are odd in in."""
    columns = {"freq": (statistics[f"{quadrant}_frequency"].to_numpy().astype(np.float32), False)}
    for activation, name in PAPER_ACTIVATIONS.items():
        prefix, is_odd = column(quadrant, activation), activation in ODD
        if (quadrant, activation) in LISTS:
            own = ExampleLists.from_arrow(lists[prefix])
            columns[f"{name}_max_values"] = _padded(own, "value", examples), is_odd
            columns[f"{name}_max_indices"] = _padded(own, "text", examples), False
        columns[f"{name}_mean"] = statistics[f"{prefix}_mean"].to_numpy().astype(np.float32), is_odd
    return columns


def _read_lists(path: Path) -> pa.Table:
    """The lists of an examples table with values and texts and without windows."""
    with pq.ParquetFile(require_file(path), memory_map=True) as file:
        return file.read(columns=leaf_paths(file, {column(*ranked): ("value", "text") for ranked in LISTS}))


def _padded(lists: ExampleLists, field: str, examples: int) -> Array:
    """[N, K] of one field, 0 in empty places."""
    lengths = np.diff(lists.first)
    padded = np.zeros((len(lengths), examples), dtype=lists[field].dtype)
    padded[np.arange(examples) < lengths[:, None]] = lists[field]
    return padded


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
    `window_filling.fill_windows` fills them. The sample is empty. The largest act for gate+ is σ of the largest gate. An entry
    of a list with the value 0 is one that no text takes. Positions that no quadrant has are `zero`.

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
        tables = _tables(rows, counts, zero, positions, mlp, function.of_array)
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
        with replacing_folder(destination(layer)) as folder:
            for name, table in zip(AGGREGATE_FILES, tables, strict=True):
                write_parquet(table, folder / name, footer)
    return layers


def _check_columns(path: Path) -> None:
    """InputError if a table has other columns or types than the paper's; their order and nullability do not matter."""
    types = {field.name: field.type for field in pq.read_schema(require_file(path))}
    for field in PAPER_SCHEMA:
        if field.name not in types:
            raise InputError(f"{path} lacks the column {field.name}; give a table in the paper's neuron-activations schema.")
        if types[field.name] != field.type:
            raise InputError(f"{path}: {field.name} is {types[field.name]}; the paper's tables have {field.type} there.")


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
) -> tuple[pa.Table, pa.Table, pa.Table, pa.Table]:
    """The statistics, examples, sample and positions of one layer."""
    width = len(rows)
    neurons = {
        "layer": rows["layer"].to_numpy().astype(np.int32),
        "neuron": rows["neuron"].to_numpy().astype(np.int32),
        "mlp": [mlp] * width,
        "expert": [None] * width,
        "index": rows["neuron"].to_numpy().astype(np.int32),
    }
    lists = {column(*ranked): _examples(rows, *ranked).to_arrow() for ranked in LISTS}
    all_positions = np.full(width, positions, dtype=np.int64)
    statistics = {one.name: pa.nulls(width, one.type) for one in schema.STATISTICS.stored}
    statistics |= {**neurons, "routed": all_positions, "positions": all_positions, "zero": zero}
    statistics |= _statistics(rows, counts, act)
    return (
        table_of(schema.STATISTICS, statistics),
        table_of(schema.EXAMPLES, {**neurons, **lists}),
        table_of(schema.SAMPLE, {**neurons, "gate": [[]] * width, "in": [[]] * width}),
        table_of(schema.POSITIONS, {one.name: [] for one in schema.POSITIONS.stored}),
    )


def _statistics(rows: pl.DataFrame, counts: Array, act: Callable[[Array], Array]) -> dict[str, pa.Array]:
    """What the table knows of quadrants, null where they are empty."""

    def largest(quadrant: str, activation: str) -> Array:
        lists = rows[f"{quadrant}_{PAPER_ACTIVATIONS[activation]}_max_values"].list
        return lists.first().abs().fill_null(0).to_numpy()

    columns = {}
    for q, quadrant in enumerate(QUADRANTS):
        columns[f"{quadrant}_count"] = pa.array(counts[q])
        empty = counts[q] == 0
        for activation, name in PAPER_ACTIVATIONS.items():
            mean = rows[f"{quadrant}_{name}_mean"].to_numpy().astype(np.float64)
            sizes = largest(quadrant, activation) if (quadrant, activation) in LISTS else act(largest(quadrant, "gate"))
            columns[f"{column(quadrant, activation)}_sum"] = pa.array(mean * counts[q], mask=empty)
            columns[f"{column(quadrant, activation)}_largest"] = pa.array(sizes, mask=empty)
    return columns


def _examples(rows: pl.DataFrame, quadrant: str, activation: str) -> ExampleLists:
    """A list whose peaks and windows are not known."""
    name = f"{quadrant}_{PAPER_ACTIVATIONS[activation]}"
    lists = rows[f"{name}_max_values"].to_arrow()
    values, texts = lists.flatten().to_numpy(), rows[f"{name}_max_indices"].to_arrow().flatten().to_numpy()
    held = values != 0
    neuron = np.repeat(np.arange(len(rows)), lists.value_lengths())[held]
    value = values[held].astype(np.float32)
    nothing = {
        field.name: np.zeros(0, field.type.value_type.to_pandas_dtype()) if pa.types.is_list(field.type) else None
        for field in schema.EXAMPLE.stored
    }
    given = {"value": value, "text": texts[held].astype(np.int32), **({"post": value} if activation == "post" else {})}
    first = offsets_of(np.bincount(neuron, minlength=len(rows)))
    return ExampleLists(first, np.zeros(len(value) + 1, dtype=np.int64), {**nothing, **given})
