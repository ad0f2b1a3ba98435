"""What surrounds the neuron pages: the index, the explanation, the manifest and the static files.

A page of a neuron belongs to `neuron_page`, what the index draws to `findings` and `figures`.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gluscope_assets.core.figures import BOX, COLUMNS, MOST_MARKS, ROWS, figure_of
from gluscope_assets.core.files import replacing
from gluscope_assets.core.findings import Finding
from gluscope_assets.core.neuron_page import RenderReport
from gluscope_assets.core.site_map import MANIFEST, SiteMap, manifest_text
from gluscope_assets.core.templates import environment, template_folder, write_page


def render_site(
    site: Path, site_map: SiteMap, facts: Mapping[str, str] | None = None, finding: Finding | None = None
) -> RenderReport:
    """Write what surrounds the neuron pages: index, explanation, manifest, static files.

    Lists the layers whose pages are there; folders of checkpoints that the site map does not have are deleted. `facts`
    are named values that the index shows, and it draws the `finding`, of a checkpoint of the site map. The report counts the
    pages and bytes of the whole site.
    """
    site.mkdir(parents=True, exist_ok=True)
    _remove_other_checkpoints(site, {key for key, _ in site_map.checkpoints})
    entries: list[dict[str, Any]] = []
    for key, name in site_map.checkpoints:
        layers = [
            {"layer": layer, "neurons": len(site_map.neurons(key, layer))}
            for layer, _ in site_map.layers
            if (site / key / f"{layer:02d}" / "index.html").is_file()
        ]
        if layers:
            entries.append({"key": key, "name": name, "layers": layers})
    shared = {"root": "", "map": site_map, "entries": entries, "facts": facts or {}, **_drawing(finding, entries)}
    _write_static(site / "static")
    write_page(site / MANIFEST, manifest_text({"study": site_map.study, "checkpoints": entries}).encode())
    for name in ("index.html", "about.html"):
        write_page(site / name, environment().get_template(name).render(**shared).encode("utf-8", "replace"))
    pages = [path for path in site.glob("*/*/*.html") if path.stem.isdigit()]
    sizes = [path.stat().st_size for path in site.rglob("*") if path.is_file()]
    return RenderReport(
        len(pages), sum(sizes), max((path.stat().st_size for path in pages), default=0), ("index.html", "about.html")
    )


def _drawing(finding: Finding | None, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the index needs to draw a finding; its layers are linked where they have pages."""
    linked = {
        pages["layer"] for entry in entries if finding and entry["key"] == finding.checkpoint for pages in entry["layers"]
    }
    return {
        "figure": figure_of(finding) if finding else None,
        "linked": linked,
        "box": BOX,
        "columns": COLUMNS,
        "rows": ROWS,
        "most_marks": MOST_MARKS,
    }


def _write_static(folder: Path) -> None:
    source = template_folder() / "static"
    files = [path for path in source.iterdir() if path.is_file() and not path.name.startswith(".")]
    for path in files:
        with replacing(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)
    for path in folder.iterdir():
        if path.is_file() and path.name not in {file.name for file in files}:
            path.unlink()


def _remove_other_checkpoints(site: Path, keys: set[str]) -> None:
    for folder in site.iterdir():
        # Only what render_neuron_pages makes: a folder of two-digit layers.
        if folder.is_dir() and folder.name not in keys | {"static"}:
            layers = list(folder.iterdir())
            if layers and all(layer.is_dir() and layer.name.isdigit() for layer in layers):
                shutil.rmtree(folder)
