"""Columns for the explorer: all neurons of a layer, as compact scripts that a browser fetches when needed.

A layer of a checkpoint has one script for each of `groups()` in `site/<checkpoint key>/<layer>/columns/`, a study one script
with its vocabulary at the site's root. Values are raw, with the orientation beside them; `site/static/explorer-data.js` reads,
orients, sorts and filters them, and decides what the explorer shows. Pages of single neurons belong to `layer_pages`.

Packed bytes are deflated, then base64; numbers are little-endian, all first bytes of an array before all second bytes. N is
the layer's width, Q the four quadrants in the order of `QUADRANTS`; arrays with several axes have neurons last. In this order:

- summary: count [Q, N] and zero [N] (uint32, or float64 if `wide`); cos_gate_in, cos_gate_out, cos_in_out [N] (float32);
  code [N] (uint8: the class's place in `classes`, plus 64 if atypical, plus 128 if the orientation is -1). The positions
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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.corpus.decoder import CONTEXT_TOKENS, TokenDecoder, visible
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import leaf_paths, replacing, require_file
from gluscope_assets.core.pages.formats import safe_json
from gluscope_assets.core.pages.packing import planes
from gluscope_assets.core.pages.shown_texts import Texts
from gluscope_assets.core.paths import EXAMPLES_FILE, STATISTICS_FILE, VOCABULARY, columns_folder, columns_script
from gluscope_assets.core.quadrants import QUADRANTS, column
from gluscope_assets.core.tables import schema
from gluscope_assets.core.tables.examples import ExampleLists
from gluscope_assets.core.tables.statistics import described

SUMMARY, PEAKS, CONTEXTS = "summary", "tokens-peaks", "contexts"
"""The scripts that hold several columns of numbers, and those that are made from examples."""

TOKENS_BEFORE, TOKENS_AFTER = 24, 12
"""Tokens of a context before and after its peak."""
NEURONS_AT_ONCE = 8192
"""Neurons whose peaks are in memory together: 12 bytes an example."""
ATYPICAL, FLIPPED = 64, 128

Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[Any]


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


def write_columns(
    site: Path, checkpoint_key: str, layer: int, aggregate: Path, weights: Path, corpus: Texts, decoder: TokenDecoder
) -> int:
    """Write the scripts of one layer of one checkpoint, all neurons whether or not they get a page, and give their bytes.

    `aggregate` is the folder with statistics.parquet and examples.parquet, `weights` the layer's file of weights. InputError
    if a table is missing, or if the tables do not belong together.
    """
    statistics = described(pq.read_table(require_file(aggregate / STATISTICS_FILE)))
    tokens = [name for names in token_columns().values() for name in names]
    scalars = ["neuron", "orientation", "cos_gate_in", "cos_gate_out", "cos_in_out", "class", "atypical"]
    known = _read_leaves(weights, {**dict.fromkeys(scalars, ()), **dict.fromkeys(tokens, ("token",))})
    neurons = statistics["neuron"].to_numpy()
    if not np.array_equal(neurons, np.arange(len(neurons))) or not np.array_equal(neurons, known["neuron"].to_numpy()):
        raise InputError(f"{weights} and {aggregate} hold different neurons; delete them and run gluscope build.")

    folder = site / columns_folder(checkpoint_key, layer)
    width = len(neurons)

    def write(group: str, facts: dict[str, object], parts: Sequence[bytes]) -> int:
        return _write_script(
            folder / f"{group}.js", columns_script(checkpoint_key, layer, group), {"width": width, **facts}, parts
        )

    written = write(SUMMARY, *_summary(statistics, known, aggregate))
    for group, names in statistic_columns().items():
        written += write(group, {}, [planes(np.stack([statistics[name].to_numpy() for name in names]), "<f4")])
    peaks, contexts = _from_examples(aggregate / EXAMPLES_FILE, width, corpus, decoder)
    lists = {group: {name: _token_list(known[name]) for name in names} for group, names in token_columns().items()}
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
    pieces = _shown_pieces(decoder)
    text = "".join(f"{piece}\0" for piece in pieces).encode("utf-8", "replace")
    return _write_script(site / f"{VOCABULARY}.js", VOCABULARY, {"pieces": len(pieces)}, [text])


# Statistics


def _summary(statistics: pa.Table, known: pa.Table, aggregate: Path) -> tuple[dict[str, object], list[bytes]]:
    counts = np.stack([statistics[f"{quadrant}_count"].to_numpy() for quadrant in QUADRANTS])
    zero = statistics["zero"].to_numpy()
    if not np.array_equal(counts.sum(axis=0) + zero, statistics["routed"].to_numpy()):
        raise InputError(f"{aggregate} holds counts that do not add up to routed; delete it and run gluscope build.")
    wide = max(counts.max(initial=0), zero.max(initial=0)) >= 1 << 32
    classes = known["class"].combine_chunks().dictionary_encode()
    code = classes.indices.to_numpy().astype(np.uint8)
    code[known["atypical"].to_numpy()] += ATYPICAL
    code[known["orientation"].to_numpy() < 0] += FLIPPED
    facts: dict[str, object] = {
        "positions": int(statistics["positions"][0].as_py()) if len(statistics) else 0,
        "classes": classes.dictionary.to_pylist(),
        "mlps": _mlps(statistics),
        "wide": bool(wide),
    }
    kind = "<f8" if wide else "<u4"
    cosines = [planes(known[name].to_numpy(), "<f4") for name in ("cos_gate_in", "cos_gate_out", "cos_in_out")]
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
    """The lists of `tokens-peaks`, as (lengths, ids) a quadrant, and the parts of `contexts`."""
    pieces = _Pieces(decoder)
    lists: list[list[tuple[Integers, Integers]]] = [[] for _ in QUADRANTS]
    contexts: list[list[_Contexts]] = [[] for _ in QUADRANTS]
    for _, batch in read_peaks(path, width):
        for place, peaks in enumerate(batch):
            lists[place].append(_distinct(peaks.first, _tokens_at(corpus, peaks["text"], peaks["position"])))
            contexts[place].append(_contexts(peaks, corpus, pieces))
    joined = [tuple(np.concatenate(parts) for parts in zip(*quadrant, strict=True)) for quadrant in lists]

    def stacked(name: str) -> Numbers:
        return np.concatenate([getattr(part, name) for quadrant in contexts for part in quadrant])

    return [(lengths, identities) for lengths, identities in joined], [
        planes(stacked("post"), "<f4"),
        planes(stacked("peak"), "<u4"),
        planes(stacked("length"), "<u4"),
        b"".join(part.texts for quadrant in contexts for part in quadrant),
    ]


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


def _tokens_at(corpus: Texts, text: Integers, position: Integers) -> Integers:
    """The tokens at positions of texts: one gather for each text, since many peaks lie in one."""
    order = np.argsort(text, kind="stable")
    heads = np.flatnonzero(np.diff(text[order], prepend=-1))
    token = np.zeros(len(text), dtype=np.int64)
    for chosen in np.split(order, heads[1:]) if len(order) else ():
        token[chosen] = corpus.tokens_of(int(text[chosen[0]]))[position[chosen]]
    return token


def _tokens_around(corpus: Texts, text: Integers, position: Integers) -> tuple[Integers, Integers, Integers]:
    """The tokens of the windows around positions, one window after the other; how many lie before each, and from it on."""
    windows: list[Numbers] = [np.zeros(0, dtype=np.int64)]
    before, after = np.zeros((2, len(text)), dtype=np.int64)
    for place, (number, peak) in enumerate(zip(text.tolist(), position.tolist(), strict=True)):
        low = max(peak - TOKENS_BEFORE, 0)
        window = corpus.tokens_of(number)[low : peak + TOKENS_AFTER + 1]
        before[place], after[place] = peak - low, len(window) - (peak - low)
        windows.append(window)
    return np.concatenate(windows).astype(np.int64), before, after


def _distinct(first: Integers, token: Integers) -> tuple[Integers, Integers]:
    """Each token of a list once, at its first place: (lengths of the lists, tokens)."""
    neurons = len(first) - 1
    row = np.repeat(np.arange(neurons), np.diff(first))
    _, places = np.unique(row << 32 | token, return_index=True)
    places.sort()
    return np.bincount(row[places], minlength=neurons), token[places]


class _Pieces:
    """Token pieces as contexts show them, as Arrow strings with their lengths."""

    def __init__(self, decoder: TokenDecoder) -> None:
        self.decoder = decoder
        self.shown = _shown_pieces(decoder)
        self.strings = pa.array([*self.shown, "\0"])
        self.units = np.array([*map(_utf16_units, self.shown), 1], dtype=np.int64)
        self.end = len(self.shown)
        """The place of the NUL that closes a text."""


def _shown_pieces(decoder: TokenDecoder) -> list[str]:
    return [visible(decoder.piece(token)).replace("\n", "") for token in range(len(decoder.split))]


def _utf16_units(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text)


@dataclass(frozen=True)
class _Contexts:
    """The contexts of one quadrant, of some neurons."""

    post: npt.NDArray[np.float32]
    peak: Integers
    length: Integers
    """These three are [neurons]."""
    texts: bytes


def _contexts(peaks: ExampleLists, corpus: Texts, pieces: _Pieces) -> _Contexts:
    neurons = len(peaks.first) - 1
    held = np.flatnonzero(np.diff(peaks.first))
    best = peaks.first[held]
    text, position = peaks["text"][best], peaks["position"][best]
    token, left, right = _tokens_around(corpus, text, position)
    # Each window is closed by NUL, and a neuron without an example is that NUL alone.
    window = np.zeros(neurons, dtype=np.int64)
    window[held] = left + right
    begin = np.cumsum(window + 1) - (window + 1)
    index = np.full(int((window + 1).sum()), pieces.end, dtype=np.int64)
    inside = np.ones(len(index), dtype=bool)
    inside[begin + window] = False
    index[inside] = token
    strings, units = _with_exceptions(index, inside, held, begin, left, text, position, corpus, pieces)
    _, offsets, characters = strings.take(pa.array(index)).buffers()
    before = np.concatenate([[0], np.cumsum(units[index])])
    post = np.full(neurons, np.nan, dtype=np.float32)
    peak, length = np.zeros((2, neurons), dtype=np.int64)
    at = begin[held] + left
    post[held] = peaks["post"][best]
    peak[held], length[held] = before[at] - before[begin[held]], units[index[at]]
    # A neuron has a NUL at least, so that only a batch of none has no characters.
    texts = characters.to_pybytes()[: np.frombuffer(offsets, np.int32)[len(index)]] if neurons else b""
    return _Contexts(post, peak, length, texts)


def _with_exceptions(
    index: Integers,
    inside: npt.NDArray[np.bool_],
    held: Integers,
    begin: Integers,
    left: Integers,
    text: Integers,
    position: Integers,
    corpus: Texts,
    pieces: _Pieces,
) -> tuple[pa.Array, Integers]:
    """Strings and their lengths for `index`, in which pieces that depend on their neighbours get places of their own.

    These are tokens that split a character, and ids beyond the vocabulary. `index` is changed in place.
    """
    decoder = pieces.decoder
    known = inside & (index >= 0) & (index < pieces.end)
    unusual = inside & ~known
    unusual[known] = decoder.split[index[known]]
    entries: dict[str, int] = {}
    windows = np.unique(np.searchsorted(begin, np.flatnonzero(unusual), side="right") - 1)
    for neuron in windows.tolist():
        place = int(np.searchsorted(held, neuron))
        first, end = int(begin[neuron]), int(begin[neuron + 1]) - 1 if neuron + 1 < len(begin) else len(index) - 1
        low = int(position[place] - left[place])
        margin = min(low, CONTEXT_TOKENS)
        around = corpus.tokens_of(int(text[place]))[low - margin : low + end - first + CONTEXT_TOKENS]
        shown = decoder.pieces(around.tolist())[margin:]
        for at in (first + np.flatnonzero(unusual[first:end])).tolist():
            piece = visible(shown[at - first]).replace("\n", "")
            index[at] = entries.setdefault(piece, pieces.end + 1 + len(entries))
    if not entries:
        return pieces.strings, pieces.units
    strings = pa.concat_arrays([pieces.strings, pa.array(list(entries), pa.string())])
    return strings, np.concatenate([pieces.units, [_utf16_units(piece) for piece in entries]])


# Files


def _read_leaves(path: Path, wanted: dict[str, Sequence[str]]) -> pa.Table:
    with pq.ParquetFile(require_file(path)) as file:
        return file.read(columns=leaf_paths(file, wanted))


def _read_batches(path: Path, wanted: dict[str, Sequence[str]], rows: range) -> Iterator[tuple[int, pa.Table]]:
    """The first row and a table of at most `NEURONS_AT_ONCE` rows, or of one row group if that is larger; at least `rows`."""
    with pq.ParquetFile(require_file(path)) as file:
        leaves = leaf_paths(file, wanted)
        groups: list[int] = []
        first = end = 0
        for group in range(file.num_row_groups):
            low, end = end, end + file.metadata.row_group(group).num_rows
            if end <= rows.start or low >= rows.stop:
                continue
            if groups and end - first > NEURONS_AT_ONCE:
                yield first, file.read_row_groups(groups, columns=leaves)
                groups = []
            if not groups:
                first = low
            groups.append(group)
        if groups:
            yield first, file.read_row_groups(groups, columns=leaves)


def _write_script(path: Path, name: str, facts: dict[str, object], parts: Sequence[bytes]) -> int:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = b"".join([*map(compressor.compress, parts), compressor.flush()])
    value = {**facts, "packed": base64.b64encode(packed).decode("ascii")}
    content = f"gluscope.provide({safe_json(name)},{safe_json(value)});\n".encode()
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return len(content)
