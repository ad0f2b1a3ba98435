"""Columns for the explorer: all neurons of a layer, as compact scripts that a browser fetches when needed.

A layer of a checkpoint has one script for each of `groups()` in `site/<checkpoint key>/<layer>/columns/`, a study one script
with its vocabulary at the site's root. Values are raw, with the orientation beside them; `site/static/explorer-data.js` reads,
orients, sorts and filters them, and decides what the explorer shows. Pages of single neurons belong to `layer_pages`.

Packed bytes are deflated, then base64; numbers are little-endian, all first bytes of an array before all second bytes. N is
the layer's width, Q the four quadrants in the order of `QUADRANTS`; arrays with several axes have neurons last. In this order:

- summary: count [Q, N] and zero [N] (uint32, or float64 if `wide`); cos_gate_in, cos_gate_out, cos_in_out [N] (float32);
  code [N] (uint8: the class's index in `classes`, plus 64 if atypical, plus 128 if the orientation is -1). The positions
  that a neuron sees are count and zero together. `mlps` are runs of neurons: [mlp, expert or null, first neuron, its index].
- `<activation>-<statistic>`: [Q, N] (float32, the tables' float64 rounded once), NaN where the quadrant is empty.
- tokens: list lengths [lists, N] (uint16), then the ids of each list of each neuron (uint32), in the tables' order.
  Peaks are those of a quadrant's examples by |post|, each id once.
- contexts: post [Q, N] (float32, NaN where there is no example); first UTF-16 unit and length of the peak's piece [Q, N]
  (uint32); texts [Q, N] in UTF-8, each closed by NUL: the strongest |post| with the tokens around it.
- vocabulary: pieces as pages show them in UTF-8, each closed by NUL, in the order of ids.
"""

import base64
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.arrays import Array, Integers
from gluscope_assets.core.corpus.decoder import TokenDecoder
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import leaf_paths, replacing, require_file
from gluscope_assets.core.pages.contexts import ContextPieces, Contexts, contexts_of, shown_pieces
from gluscope_assets.core.pages.formats import safe_json
from gluscope_assets.core.pages.packing import planes
from gluscope_assets.core.pages.peaks import read_peaks
from gluscope_assets.core.pages.shown_texts import Texts
from gluscope_assets.core.paths import VOCABULARY, LayerTables, columns_folder, columns_script
from gluscope_assets.core.quadrants import QUADRANTS
from gluscope_assets.core.tables import schema
from gluscope_assets.core.tables.statistics import described

SUMMARY, PEAKS, CONTEXTS = "summary", "tokens-peaks", "contexts"
"""The scripts that hold several columns of numbers, and those that are made from examples."""

ATYPICAL, FLIPPED = 64, 128


def groups() -> tuple[str, ...]:
    """The scripts of a layer, without `.js`: those that columns of the tables name, and those made from examples."""
    named = (one.explorer for one in schema.neurons().columns if one.explorer)
    return (*dict.fromkeys(named), PEAKS, CONTEXTS)


def statistic_columns() -> dict[str, list[str]]:
    """The columns in each script of a statistic, one a quadrant, in the order of `QUADRANTS`."""
    return _columns_of(one for one in schema.neurons().columns if one.quadrant and one.explorer != SUMMARY)


def token_columns() -> dict[str, list[str]]:
    """The columns of the weights tables in each script of tokens, in their order."""
    return _columns_of(one for one in schema.neurons().columns if one.type == schema.TOKEN_LIST)


def _columns_of(columns: Iterable[schema.Column]) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for one in columns:
        if one.explorer:
            named.setdefault(one.explorer, []).append(one.name)
    return named


def write_columns(site: Path, tables: LayerTables, corpus: Texts, decoder: TokenDecoder) -> int:
    """Write the scripts of one layer of one checkpoint, all neurons whether or not they get a page, and give their bytes.

    InputError if a table is missing, or if the tables do not belong together.
    """
    statistics = described(pq.read_table(require_file(tables.statistics)))
    tokens = [name for names in token_columns().values() for name in names]
    scalars = ["neuron", "orientation", "cos_gate_in", "cos_gate_out", "cos_in_out", "class", "atypical"]
    of_weights = _read_leaves(tables.weights, {**dict.fromkeys(scalars, ()), **dict.fromkeys(tokens, ("token",))})
    neurons = statistics["neuron"].to_numpy()
    if not np.array_equal(neurons, np.arange(len(neurons))) or not np.array_equal(neurons, of_weights["neuron"].to_numpy()):
        raise InputError(f"{tables.weights} and {tables.aggregate} hold different neurons; delete them and run gluscope build.")

    folder, width = site / columns_folder(tables.checkpoint_key, tables.layer), len(neurons)

    def write(group: str, facts: dict[str, object], arrays: Sequence[bytes]) -> int:
        name = columns_script(tables.checkpoint_key, tables.layer, group)
        return _write_script(folder / f"{group}.js", name, {"width": width, **facts}, arrays)

    written = write(SUMMARY, *_summary(statistics, of_weights, tables.aggregate))
    for group, names in statistic_columns().items():
        written += write(group, {}, [planes(np.stack([statistics[name].to_numpy() for name in names]), "<f4")])
    peaks, contexts = _from_examples(tables.examples, width, corpus, decoder)
    lists = {group: {name: _token_list(of_weights[name]) for name in names} for group, names in token_columns().items()}
    lists[PEAKS] = {f"{quadrant}_peaks": of_quadrant for quadrant, of_quadrant in zip(QUADRANTS, peaks, strict=True)}
    for group, of_group in lists.items():
        lengths, identities = zip(*of_group.values(), strict=True)
        facts = {"lists": list(of_group), "sizes": [*map(len, identities)]}
        written += write(group, facts, [*(planes(one, "<u2") for one in lengths), *(planes(one, "<u4") for one in identities)])
    written += write(CONTEXTS, {"bytes": len(contexts[-1])}, contexts)
    for path in folder.glob("*.js"):
        if path.stem not in groups():
            path.unlink()
    return written


def write_vocabulary(site: Path, decoder: TokenDecoder) -> int:
    """Write the token pieces of a study at the site's root and give the script's bytes."""
    pieces = shown_pieces(decoder)
    text = "".join(f"{piece}\0" for piece in pieces).encode("utf-8", "replace")
    return _write_script(site / f"{VOCABULARY}.js", VOCABULARY, {"pieces": len(pieces)}, [text])


# Statistics


def _summary(statistics: pa.Table, weights: pa.Table, aggregate: Path) -> tuple[dict[str, object], list[bytes]]:
    counts = np.stack([statistics[f"{quadrant}_count"].to_numpy() for quadrant in QUADRANTS])
    zero = statistics["zero"].to_numpy()
    if not np.array_equal(counts.sum(axis=0) + zero, statistics["routed"].to_numpy()):
        raise InputError(f"{aggregate} holds counts that do not add up to routed; delete it and run gluscope build.")
    wide = max(counts.max(initial=0), zero.max(initial=0)) >= 1 << 32
    classes = weights["class"].combine_chunks().dictionary_encode()
    code = classes.indices.to_numpy().astype(np.uint8)
    code[weights["atypical"].to_numpy()] += ATYPICAL
    code[weights["orientation"].to_numpy() < 0] += FLIPPED
    facts: dict[str, object] = {
        "positions": int(statistics["positions"][0].as_py()) if len(statistics) else 0,
        "classes": classes.dictionary.to_pylist(),
        "mlps": _mlps(statistics),
        "wide": bool(wide),
    }
    kind = "<f8" if wide else "<u4"
    cosines = [planes(weights[name].to_numpy(), "<f4") for name in ("cos_gate_in", "cos_gate_out", "cos_in_out")]
    return facts, [planes(counts, kind), planes(zero, kind), *cosines, planes(code, "u1")]


def _mlps(statistics: pa.Table) -> list[list[object]]:
    """Runs of neurons that lie one after the other in an MLP or an expert: [mlp, expert or null, first neuron, its index]."""
    mlp = statistics["mlp"].combine_chunks().dictionary_encode()
    expert = statistics["expert"].combine_chunks().cast(pa.int64()).fill_null(-1).to_numpy()
    index, name = statistics["index"].to_numpy().astype(np.int64), mlp.indices.to_numpy()
    fresh = np.ones(len(index), dtype=bool)
    fresh[1:] = (np.diff(name) != 0) | (np.diff(expert) != 0) | (np.diff(index) != 1)
    names = mlp.dictionary.to_pylist()
    return [
        [names[name[first]], None if expert[first] < 0 else int(expert[first]), int(first), int(index[first])]
        for first in np.flatnonzero(fresh)
    ]


# Tokens and texts


def _token_list(lists: pa.ChunkedArray) -> tuple[Integers, Integers]:
    """(length of each neuron's list, all ids one after the other); a null is an empty list."""
    column = lists.combine_chunks()
    if pa.types.is_null(column.type):
        return np.zeros(len(column), dtype=np.int64), np.zeros(0, dtype=np.int64)
    lengths = column.value_lengths().fill_null(0).to_numpy().astype(np.int64)
    return lengths, column.flatten().field("token").to_numpy().astype(np.int64)


def _from_examples(
    path: Path, width: int, corpus: Texts, decoder: TokenDecoder
) -> tuple[list[tuple[Integers, Integers]], list[bytes]]:
    """The lists of `tokens-peaks`, as (lengths, ids) a quadrant, and the arrays of `contexts`."""
    pieces = ContextPieces(decoder)
    lists: list[list[tuple[Integers, Integers]]] = [[] for _ in QUADRANTS]
    contexts: list[list[Contexts]] = [[] for _ in QUADRANTS]
    for _, batch in read_peaks(path, width):
        for quadrant, peaks in enumerate(batch):
            lists[quadrant].append(_distinct(peaks.first, _tokens_at(corpus, peaks["text"], peaks["position"])))
            contexts[quadrant].append(contexts_of(peaks, corpus, pieces))
    joined = [tuple(np.concatenate(batches) for batches in zip(*of_quadrant, strict=True)) for of_quadrant in lists]

    def stacked(name: str) -> Array:
        return np.concatenate([getattr(batch, name) for of_quadrant in contexts for batch in of_quadrant])

    return [(lengths, identities) for lengths, identities in joined], [
        planes(stacked("post"), "<f4"),
        planes(stacked("peak"), "<u4"),
        planes(stacked("length"), "<u4"),
        b"".join(batch.texts for of_quadrant in contexts for batch in of_quadrant),
    ]


def _tokens_at(corpus: Texts, text: Integers, position: Integers) -> Integers:
    """The tokens at positions of texts: one gather for each text, since many peaks lie in one."""
    order = np.argsort(text, kind="stable")
    heads = np.flatnonzero(np.diff(text[order], prepend=-1))
    token = np.zeros(len(text), dtype=np.int64)
    for chosen in np.split(order, heads[1:]) if len(order) else ():
        token[chosen] = corpus.tokens_of(int(text[chosen[0]]))[position[chosen]]
    return token


def _distinct(first: Integers, token: Integers) -> tuple[Integers, Integers]:
    """Each token of a list once, where it comes first: (lengths of the lists, tokens)."""
    neurons = len(first) - 1
    row = np.repeat(np.arange(neurons), np.diff(first))
    _, firsts = np.unique(row << 32 | token, return_index=True)
    firsts.sort()
    return np.bincount(row[firsts], minlength=neurons), token[firsts]


# Files


def _read_leaves(path: Path, wanted: dict[str, Sequence[str]]) -> pa.Table:
    with pq.ParquetFile(require_file(path)) as file:
        return file.read(columns=leaf_paths(file, wanted))


def _write_script(path: Path, name: str, facts: dict[str, object], arrays: Sequence[bytes]) -> int:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = b"".join([*map(compressor.compress, arrays), compressor.flush()])
    value = {**facts, "packed": base64.b64encode(packed).decode("ascii")}
    content = f"gluscope.provide({safe_json(name)},{safe_json(value)});\n".encode()
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return len(content)
