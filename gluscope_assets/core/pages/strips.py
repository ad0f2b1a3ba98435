"""The same neuron along training: how often each quadrant occurs at each checkpoint, and its strongest example there.

A page shows it as a strip. The data are no part of the page, which must not change when a checkpoint is added: they lie in
scripts of their own, one for a run of neurons of a layer, that the pages of all checkpoints share. The figures of all neurons
over checkpoints belong to `core.site.overview_figures`.
"""

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gluscope_assets.core.corpus.decoder import TokenDecoder, visible
from gluscope_assets.core.files import replacing_folder, require_file
from gluscope_assets.core.pages.formats import SPACES, safe_json
from gluscope_assets.core.pages.peaks import read_peaks
from gluscope_assets.core.pages.shown_texts import Texts
from gluscope_assets.core.pages.site_map import SiteMap, neuron_ranges
from gluscope_assets.core.pages.templates import write_page
from gluscope_assets.core.paths import STRIPS, LayerTables, strips_file, strips_script
from gluscope_assets.core.quadrants import QUADRANTS
from gluscope_assets.core.tables.examples import ExampleLists

CELLS = 16
"""Neurons times checkpoints in one script: about 3 KB compressed."""
TOKENS_BEFORE, TOKENS_AFTER = 10, 8
"""Tokens of an example before and after its peak."""


@dataclass(frozen=True)
class StripSources:
    """What the strips of a study are made from."""

    tables: Mapping[int, Sequence[LayerTables]]
    """Of each layer, the tables of the checkpoints that have it, in the order of training."""
    corpus: Texts
    decoder: TokenDecoder


def write_strips(site: Path, site_map: SiteMap, sources: StripSources | None) -> dict[str, Any] | None:
    """Write the strips of all neurons that have a page at some checkpoint, in place of older ones.

    Returns what the manifest says of them: how many neurons share a script, and of each layer the half-open ranges of neurons
    that have a strip. None where no layer has two checkpoints, which leave nothing to compare.
    """
    folder = site / STRIPS
    layers = compared(sources.tables) if sources else {}
    if sources is None or not layers:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    together = neurons_together(layers)
    shown = {}
    with replacing_folder(folder) as temporary:
        for layer, tables in layers.items():
            neurons = sorted({neuron for table in tables for neuron in site_map.neurons(table.checkpoint_key, layer)})
            write_layer_strips(temporary, sources, layer, neurons, together)
            shown[str(layer)] = neuron_ranges(neurons)
    return {"together": together, "layers": shown}


def compared(tables: Mapping[int, Sequence[LayerTables]]) -> dict[int, Sequence[LayerTables]]:
    """The layers that several checkpoints have: one leaves nothing to compare."""
    return {layer: of_layer for layer, of_layer in tables.items() if len(of_layer) > 1}


def neurons_together(layers: Mapping[int, Sequence[LayerTables]]) -> int:
    """How many neurons share a script."""
    return max(1, CELLS // max(map(len, layers.values()), default=1))


def write_layer_strips(folder: Path, sources: StripSources, layer: int, neurons: Collection[int], together: int) -> int:
    """Write the scripts that hold `neurons` of a layer into `folder`/<layer>/, and give their bytes.

    Each script has a run of `together` neurons, the last one fewer; shares are raw, of the positions that the neuron sees, with
    the orientation beside them.
    """
    tables, blocks = sources.tables[layer], sorted({neuron // together for neuron in neurons})
    stages = [_stages(table, blocks, together, sources) for table in tables]
    written = 0
    for block in blocks:
        first = block * together
        checkpoints = [
            {"key": table.checkpoint_key, **stage[block]} for table, stage in zip(tables, stages, strict=True) if block in stage
        ]
        name = strips_script(layer, first)
        content = f"gluscope.provide({safe_json(name)},{safe_json({'first': first, 'checkpoints': checkpoints})});\n"
        path = folder / strips_file(layer, first)
        path.parent.mkdir(parents=True, exist_ok=True)
        written += write_page(path, content.encode())
    return written


def _stages(table: LayerTables, blocks: Sequence[int], together: int, sources: StripSources) -> dict[int, dict[str, Any]]:
    """Of each block its neurons' shares, orientations and strongest examples at one checkpoint."""
    counts = [f"{quadrant}_count" for quadrant in QUADRANTS]
    statistics = pl.read_parquet(require_file(table.statistics), columns=["neuron", "routed", *counts])
    routed = statistics["routed"].to_numpy()
    shares = statistics.select(counts).to_numpy() / np.maximum(routed, 1)[:, None]
    orientation = pl.read_parquet(require_file(table.weights), columns=["orientation"])["orientation"].to_numpy()
    width = len(statistics)
    runs = {block: range(block * together, min((block + 1) * together, width)) for block in blocks}
    wanted = {neuron for run in runs.values() for neuron in run}
    examples: dict[int, list[list[Any] | None]] = {}
    for first, batch in read_peaks(table.examples, width, range(min(wanted, default=0), max(wanted, default=-1) + 1)):
        for neuron in wanted.intersection(range(first, first + len(batch[0].first) - 1)):
            examples[neuron] = [_strongest(peaks, neuron - first, sources) for peaks in batch]
    return {
        block: {
            "orientation": orientation[run.start : run.stop].astype(int).tolist(),
            "shares": np.round(shares[run.start : run.stop], 6).tolist(),
            "strongest": [examples[neuron] for neuron in run],
        }
        for block, run in runs.items()
        if run
    }


def _strongest(peaks: ExampleLists, neuron: int, sources: StripSources) -> list[Any] | None:
    """[post, text before the peak, peak, text after it] of a quadrant's strongest example; None where it has none."""
    first, end = peaks.first[neuron : neuron + 2].tolist()
    if first == end:
        return None
    position = int(peaks["position"][first])
    low, tokens = max(position - TOKENS_BEFORE, 0), sources.corpus.tokens_of(int(peaks["text"][first]))
    around = sources.decoder.window_pieces(tokens, low, position + TOKENS_AFTER + 1 - low)
    pieces = [SPACES.sub("  ", visible(piece).replace("\n", "")) for piece in around]
    at = position - low
    return [float(f"{peaks['post'][first]:.4g}"), "".join(pieces[:at]), pieces[at], "".join(pieces[at + 1 :])]
