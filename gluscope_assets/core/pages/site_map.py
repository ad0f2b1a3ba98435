"""Which pages a study's site has, and the manifest that tells every page.

Neuron pages are written by `rendering`, the manifest by `core.site.site`; which neurons a selection holds is said by
`selection`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import require_file
from gluscope_assets.core.options import PageSelection
from gluscope_assets.core.pages.formats import safe_json
from gluscope_assets.core.pages.selection import chosen_neurons
from gluscope_assets.core.paths import MANIFEST, columns_folder, layer_neuron_pages
from gluscope_assets.core.quadrants import View

MANIFEST_PREFIX = "window.gluscopeNeurons = "


@dataclass(frozen=True)
class MlpBlock:
    """One gated MLP of a layer that has several, or all experts of one: they lie one after the other."""

    mlp: str
    experts: int | None
    """None if all tokens enter it. Neuron i of expert e is the layer's first + e · neurons / experts + i."""
    first: int
    """The layer's neuron that its first one is."""
    neurons: int


@dataclass(frozen=True)
class SiteMap:
    """Which pages a study's site has. Pages exist for the selected neurons of the layers that are rendered."""

    study: str
    """The study's name, a slug."""
    title: str
    """The study as its pages' heading line says it."""
    model: str
    corpus: str
    """The corpus in a few words."""
    checkpoints: tuple[tuple[str, str], ...]
    """(key, name) in the order of training."""
    layers: tuple[tuple[int, int], ...]
    """(layer, its neurons), ascending."""
    pages: tuple[PageSelection, ...]
    """Without rankings, which `with_lists` replaces."""
    mlp_blocks: tuple[tuple[int, tuple[MlpBlock, ...]], ...] = ()
    """(layer, its blocks) of the layers with several gated MLPs or with experts."""
    view: View = "oriented"
    """Whether pages show in and post multiplied by the orientation."""

    def neurons(self, checkpoint_key: str, layer: int) -> Sequence[int]:
        """The neurons of a layer of a checkpoint that get pages, ascending. InputError if the checkpoint is unknown."""
        keys = [key for key, _ in self.checkpoints]
        if checkpoint_key not in keys:
            raise InputError(f"The study {self.study} has no checkpoint {checkpoint_key}; it has {', '.join(keys)}.")
        name, is_last = self.name_of(checkpoint_key), checkpoint_key == keys[-1]
        held = [selection for selection in self.pages if selection.holds(name, is_last, layer)]
        return chosen_neurons(held, layer, dict(self.layers)[layer])

    def name_of(self, checkpoint_key: str) -> str:
        """The name of the checkpoint with that key."""
        return dict(self.checkpoints)[checkpoint_key]


def mlp_blocks_of(statistics: Path) -> tuple[MlpBlock, ...]:
    """The blocks of a layer, from its statistics; none if it has one gated MLP without experts."""
    table = pq.read_table(require_file(statistics), columns=["mlp", "expert", "index"])
    mlp = np.array(table["mlp"].to_pylist())
    expert, index = table["expert"].fill_null(-1).to_numpy(), table["index"].to_numpy()
    # A run of one MLP's neurons starts where the path changes or the first expert's first neuron comes.
    fresh = (index == 0) & ((np.append("", mlp[:-1]) != mlp) | (expert < 1))
    bounds = [*np.flatnonzero(fresh).tolist(), len(index)]
    blocks = [
        MlpBlock(str(mlp[first]), None if expert[first] < 0 else int(expert[end - 1]) + 1, first, end - first)
        for first, end in pairwise(bounds)
    ]
    return () if len(blocks) == 1 and blocks[0].experts is None else tuple(blocks)


def neuron_ranges(neurons: Iterable[int]) -> list[list[int]]:
    """`neurons`, ascending, as half-open ranges [first, end)."""
    ranges: list[list[int]] = []
    for neuron in neurons:
        if ranges and ranges[-1][1] == neuron:
            ranges[-1][1] += 1
        else:
            ranges.append([neuron, neuron + 1])
    return ranges


def layer_entry(site_map: SiteMap, layer: int, pages: list[list[int]]) -> dict[str, Any]:
    """What the manifest says of a layer: its number, width and pages, as half-open ranges of neurons, and any MLP blocks."""
    blocks = [vars(block) for block in dict(site_map.mlp_blocks).get(layer, ())]
    return {"layer": layer, "width": dict(site_map.layers)[layer], "pages": pages, **({"parts": blocks} if blocks else {})}


def built_entries(site: Path, site_map: SiteMap) -> list[dict[str, Any]]:
    """The manifest's checkpoints with the layers that lie in a site: those with columns, and with the pages that are there."""
    entries = []
    for key, name in site_map.checkpoints:
        layers = []
        for layer, _ in site_map.layers:
            neurons = [int(path.stem) for path in layer_neuron_pages(site, key, layer)]
            if neurons or (site / columns_folder(key, layer)).is_dir():
                layers.append(layer_entry(site_map, layer, neuron_ranges(neurons)))
        if layers:
            entries.append({"key": key, "name": name, "layers": layers})
    return entries


def manifest_text(manifest: Mapping[str, object]) -> str:
    """The manifest as a classic script, which pages can read from file:// too."""
    return f"{MANIFEST_PREFIX}{safe_json(manifest)};\n"


def read_manifest(site: Path) -> dict[str, Any]:
    """The manifest of a built site. InputError if there is none."""
    text = require_file(site / MANIFEST).read_text(encoding="utf-8")
    manifest: dict[str, Any] = json.loads(text.removeprefix(MANIFEST_PREFIX).rstrip(";\n"))
    return manifest
