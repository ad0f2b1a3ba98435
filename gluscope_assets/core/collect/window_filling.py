"""Windows of examples of which a table names the text and not the activations: the model is run over these texts alone.

What belongs here: filling imported tables, which lack windows, and the lists of the few neurons of a page. What does not: the
windows of a whole layer, which `job` collects in one pass, and what a window is, which `tables.aggregate` says.
"""

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.arrays import Floats, narrow, offsets_of
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import read_provenance, require_file, write_parquet
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets.core.paths import EXAMPLES_FILE
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, column, signs_of
from gluscope_assets.core.tables import schema
from gluscope_assets.core.tables.examples import ExampleLists
from gluscope_assets.core.tables.schema import widest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from gluscope_assets.core.collect.forward import Batch, Forward
    from gluscope_assets.core.model.gated_mlp import Activations, GatedMLP, Stack

FORWARDED_AT_ONCE = 1 << 12
"""Tokens that are forwarded together, unless one text has more."""
ACTIVATIONS_AT_ONCE = 1 << 22
"""Tokens x neurons whose activations are in memory together: 16 MB for each of gate, in, act and post."""

VALUE_TOLERANCE = 0.1
"""How far, relatively, a model may be from a list's values: bfloat16 is within a few hundredths."""
MOST_OFF = 0.2
"""The share of examples that may be further off before model and table are taken not to belong together."""

THE_PAPERS = CollectionOptions(count_special_tokens=True)
"""The windows that a study has by default, with special tokens counted, as in the paper's tables."""


class _Example(NamedTuple):
    """An example and where it stands."""

    quadrant: str
    activation: str
    neuron_index: int
    """Of its neuron among the neurons that are filled."""
    entry: dict[str, Any]
    """Its fields; the window is written into them."""


def fill_windows(
    examples: pa.Table,
    model: "PreTrainedModel",
    corpus: TokenizedCorpus,
    neurons: Collection[int],
    options: CollectionOptions = THE_PAPERS,
    stack: "Stack | None" = None,
) -> pa.Table:
    """`examples`, the table of one layer, with peaks and windows in the lists of `neurons`; other rows stay as they are.

    The table has at least text and value of each example. The model runs over only the texts that the lists name, as far as
    that layer. The peak of an example without a position is the counted position of its quadrant with the largest |value| in
    its text, as everywhere. A missing post is the model's at the peak; values stay as they are in the table. Gate and in are
    float16, or float32 in all rows if one does not fit. `options` say how far a window reaches and whether special tokens
    count.

    InputError if the model lacks the layer or neurons, the corpus lacks a text, or the model computes other values than the
    lists have.
    """
    layers = set(examples["layer"].to_pylist())
    if len(layers) != 1:
        raise InputError(f"The examples table holds {len(layers)} layers; give that of one layer.")
    row_of = {neuron: row for row, neuron in enumerate(examples["neuron"].to_pylist())}
    missing = sorted(set(neurons) - row_of.keys())
    if missing:
        raise InputError(f"The examples table has no neuron {missing[0]}; give neurons of layer {layers.pop()}.")
    chosen = sorted(set(neurons))
    rows = [row_of[neuron] for neuron in chosen]
    wanted = examples.take(rows)
    lists = [wanted[column(*ranked)].to_pylist() for ranked in LISTS]
    by_text: dict[int, list[_Example]] = {}
    for ranked, of_neurons in zip(LISTS, lists, strict=True):
        for neuron_index, entries in enumerate(of_neurons):
            for entry in entries:
                by_text.setdefault(entry["text"], []).append(_Example(*ranked, neuron_index, entry))
    if not by_text:
        return examples
    if max(by_text) >= corpus.n_texts:
        raise InputError(
            f"The examples name text {max(by_text)} and {corpus.path} has {corpus.n_texts} texts; give the corpus that the "
            f"table was made from."
        )
    values = _fill_entries(by_text, model, corpus, layers.pop(), np.array(chosen), options, stack)
    off = [abs(computed - listed) > VALUE_TOLERANCE * abs(listed) for computed, listed in values]
    if np.mean(off) > MOST_OFF:
        raise InputError(
            f"The model computes other values than the lists have at {sum(off)} of {len(off)} examples; give the checkpoint "
            f"and the corpus that the table was made from."
        )
    order = np.arange(len(examples))
    order[rows] = len(examples) + np.arange(len(rows))
    for ranked, of_neurons in zip(LISTS, lists, strict=True):
        name = column(*ranked)
        before, filled = examples[name].combine_chunks(), _list_column(of_neurons)
        kind = widest(before.type, filled.type)
        joined = pa.concat_arrays([before.cast(kind), filled.cast(kind)]).take(pa.array(order))
        examples = examples.set_column(examples.schema.get_field_index(name), name, joined)
    return examples


def write_windows(
    aggregate: Path,
    model: "PreTrainedModel",
    corpus: TokenizedCorpus,
    neurons: Collection[int],
    options: CollectionOptions = THE_PAPERS,
    stack: "Stack | None" = None,
) -> None:
    """`fill_windows` in the examples of an aggregate's folder, whose file is replaced."""
    path = aggregate / EXAMPLES_FILE
    filled = fill_windows(pq.read_table(require_file(path)), model, corpus, neurons, options, stack)
    reach = {"window_before": options.window_before, "window_after": options.window_after}
    write_parquet(filled, path, {**read_provenance(path), **reach})


def _fill_entries(
    by_text: dict[int, list[_Example]],
    model: "PreTrainedModel",
    corpus: TokenizedCorpus,
    layer: int,
    chosen: npt.NDArray[np.int64],
    options: CollectionOptions,
    stack: "Stack | None",
) -> list[tuple[float, float]]:
    """Fill the entries of `by_text`. Gives the model's value and the table's at each peak."""
    from gluscope_assets.core.collect.forward import Forward
    from gluscope_assets.core.model.anatomy import look_through

    mlps = [mlp for mlp in look_through(model, stack).mlps if mlp.layer == layer]
    if not mlps or chosen[-1] >= sum(mlp.width for mlp in mlps):
        raise InputError(
            f"The model has {sum(mlp.width for mlp in mlps)} gated neurons in layer {layer} and the table has neuron "
            f"{chosen[-1]}; give the checkpoint that the table was made from."
        )
    values: list[tuple[float, float]] = []
    with Forward(model, mlps, stack) as forward:
        for batch in _batches(forward, corpus, sorted(by_text), len(chosen), options.count_special_tokens):
            activations = _activations(forward, batch, mlps, chosen)
            for text, first, end in zip(batch.text.tolist(), batch.offsets[:-1], batch.offsets[1:], strict=True):
                for quadrant, activation, neuron_index, entry in by_text[text]:
                    own = {name: of_batch[first:end, neuron_index] for name, of_batch in activations.items()}
                    peak = entry["position"]
                    if peak is None:
                        peak = _peak(own, batch.counted[first:end], quadrant, activation, entry["value"])
                    low, high = max(0, peak - options.window_before), min(int(end - first), peak + 1 + options.window_after)
                    values.append((float(own[activation][peak]), entry["value"]))
                    entry.update(position=peak, start=low, token=corpus.tokens_of(text)[low:high])
                    entry.update({"gate": own["gate"][low:high], "in": own["in"][low:high]})
                    if entry["post"] is None:
                        entry["post"] = float(own["post"][peak])
    return values


def _batches(
    forward: "Forward", corpus: TokenizedCorpus, texts: list[int], neurons: int, count_special_tokens: bool
) -> Iterator["Batch"]:
    """The texts as the model takes them, as many at once as `FORWARDED_AT_ONCE` and `ACTIVATIONS_AT_ONCE` allow."""
    numbers = np.array(texts)
    begin = offsets_of(corpus.offsets[numbers + 1] - corpus.offsets[numbers])[:-1]
    group = begin // max(1, min(FORWARDED_AT_ONCE, ACTIVATIONS_AT_ONCE // neurons))
    for number in np.unique(group):
        yield from forward.batches(corpus, numbers[group == number], count_special_tokens)


def _activations(
    forward: "Forward", batch: "Batch", mlps: "list[GatedMLP]", chosen: npt.NDArray[np.int64]
) -> dict[str, Floats]:
    """Each of ACTIVATIONS of the chosen neurons, [tokens, neurons]; NaN where a token was not routed to the expert."""
    import torch

    values = {name: np.full((len(batch.token), len(chosen)), np.nan, dtype=np.float32) for name in ACTIVATIONS}
    first_of = dict(zip(mlps, offsets_of([mlp.width for mlp in mlps])[:-1].tolist(), strict=True))

    def receive(block: str, computed: "list[tuple[GatedMLP, Activations]]") -> None:
        for mlp, activations in computed:
            first = first_of[mlp]
            columns = np.flatnonzero((chosen >= first) & (chosen < first + mlp.width))
            if not len(columns):
                continue
            own = torch.from_numpy(chosen[columns] - first).to(activations.gate.device)
            rows = np.arange(len(batch.token)) if activations.tokens is None else activations.tokens.cpu().numpy()
            of_columns = activations.each(partial(torch.index_select, dim=1, index=own))  # [rows, columns] each
            for name, tensor in mlp.by_name(of_columns).items():
                values[name][np.ix_(rows, columns)] = tensor.float().cpu().numpy()

    forward.run(batch, receive)
    return values


def _peak(own: dict[str, Floats], counted: npt.NDArray[np.bool_], quadrant: str, activation: str, value: float) -> int:
    """The peak's position in a text, from the activations [tokens] of one neuron."""
    gate_sign, in_sign = (1 if sign == "+" else -1 for sign in signs_of(quadrant))
    inside = counted & (np.sign(own["gate"]) == gate_sign) & (np.sign(own["in"]) == in_sign)
    ranked = own[activation]
    if not inside.any():
        # A gate or in within rounding of 0 has the other sign here.
        return int(np.nanargmin(np.where(counted, np.abs(ranked - value), np.inf)))
    size = np.where(inside, np.abs(ranked), -1)
    if activation != "act":
        return int(size.argmax())
    return int(np.where(size == size.max(), np.abs(own["post"]), -1).argmax())


def _list_column(of_neurons: list[list[dict[str, Any]]]) -> pa.ListArray:
    """A column of examples with their windows."""
    import torch

    entries = [entry for of_neuron in of_neurons for entry in of_neuron]
    fields: dict[str, npt.NDArray[Any] | None] = {}
    for field in schema.EXAMPLE.stored:
        values = [entry[field.name] for entry in entries]
        if field.name in ("gate", "in"):
            wide = np.concatenate([np.zeros(0, dtype=np.float32), *values])
            fields[field.name] = narrow(torch.from_numpy(wide))[0].numpy()
        elif pa.types.is_list(field.type):
            fields[field.name] = np.concatenate([np.zeros(0, dtype=np.int32), *values])
        else:
            fields[field.name] = np.array(values, dtype=field.type.to_pandas_dtype())
    window = offsets_of([len(entry["token"]) for entry in entries])
    return ExampleLists(offsets_of([len(of_neuron) for of_neuron in of_neurons]), window, fields).to_arrow()
