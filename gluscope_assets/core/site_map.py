"""Which pages a study's site has, and the manifest that tells every page.

Writing pages belongs to `neuron_page` and `site`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import require_file
from gluscope_assets.core.formats import safe_json
from gluscope_assets.core.options import PageSelection

MANIFEST = "neurons.js"
"""The script at the site's root that tells every page which pages there are."""
MANIFEST_PREFIX = "window.gluscopeNeurons = "


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

    def neurons(self, checkpoint_key: str, layer: int) -> range:
        """The neurons of a layer of a checkpoint that get pages. InputError if the checkpoint is unknown."""
        keys = [key for key, _ in self.checkpoints]
        if checkpoint_key not in keys:
            raise InputError(f"The study {self.study} has no checkpoint {checkpoint_key}; it has {', '.join(keys)}.")
        name, width = dict(self.checkpoints)[checkpoint_key], dict(self.layers)[layer]
        most = 0
        for selection in self.pages:
            if selection.checkpoints == "all":
                chosen = True
            elif selection.checkpoints == "last":
                chosen = checkpoint_key == keys[-1]
            else:
                chosen = name in selection.checkpoints
            if chosen:
                most = max(most, width if selection.neurons == "all" else min(selection.neurons, width))
        return range(most)

    def name_of(self, checkpoint_key: str) -> str:
        """The name of the checkpoint with that key."""
        return dict(self.checkpoints)[checkpoint_key]


def manifest_text(manifest: dict[str, object]) -> str:
    """The manifest as a classic script, which pages can read from file:// too."""
    return f"{MANIFEST_PREFIX}{safe_json(manifest)};\n"


def read_manifest(site: Path) -> dict[str, Any]:
    """The manifest of a built site. InputError if there is none."""
    text = require_file(site / MANIFEST).read_text(encoding="utf-8")
    manifest: dict[str, Any] = json.loads(text.removeprefix(MANIFEST_PREFIX).rstrip(";\n"))
    return manifest
