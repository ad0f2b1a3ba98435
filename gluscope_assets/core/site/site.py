"""What surrounds the neuron pages: the index, the explanation, the manifest and the static files.

Neuron pages are written by `core.pages.rendering`; what the index says and draws comes from `measured`, `overview`,
`overview_figures` and `figures`.
"""

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from gluscope_assets.core.files import replacing
from gluscope_assets.core.pages.rendering import RenderReport
from gluscope_assets.core.pages.site_map import SiteMap, built_entries, manifest_text
from gluscope_assets.core.pages.strips import StripSources, write_strips
from gluscope_assets.core.pages.templates import environment, template_folder, write_page
from gluscope_assets.core.paths import INDEX, MANIFEST, STATIC, STRIPS, neuron_pages
from gluscope_assets.core.site.figures import BOX, COLUMNS, MOST_MARKS, ROWS, figure_of
from gluscope_assets.core.site.layer_rows import CLASSES
from gluscope_assets.core.site.measured import Measurement
from gluscope_assets.core.site.overview import Overview
from gluscope_assets.core.site.overview_figures import class_bars, quadrant_bars, training_figures
from gluscope_assets.core.site.unusual import FEWEST_POSITIONS


def render_site(
    site: Path,
    site_map: SiteMap,
    measurement: Measurement | None = None,
    overview: Overview | None = None,
    strip_sources: StripSources | None = None,
    retired: Collection[str] = (),
    dataset_license: str | None = None,
) -> RenderReport:
    """Write what surrounds the neuron pages: index, explorer, explanation, manifest, strips along training from
    `strip_sources`, static files.

    Lists the layers whose pages are there; folders of checkpoints that the site map does not have are deleted, but for those
    with the keys `retired`, whose pages are linked from elsewhere. The index says what the `measurement` was and draws the
    `overview`, whose checkpoints are some of the site map's, and links the dataset that lies in `dataset/` under the
    `dataset_license`, if there is one. The report counts the pages and bytes of the whole site.
    """
    site.mkdir(parents=True, exist_ok=True)
    _remove_other_checkpoints(site, {key for key, _ in site_map.checkpoints} | set(retired))
    entries = built_entries(site, site_map)
    shared = {"root": "", "map": site_map, "entries": entries, "measurement": measurement}
    shared |= {"dataset_license": dataset_license, **_drawing(overview, entries)}
    _write_static(site / STATIC)
    strips = write_strips(site, site_map, strip_sources)
    manifest = {"study": site_map.study, "view": site_map.view, "checkpoints": entries, "training": strips}
    write_page(site / MANIFEST, manifest_text(manifest).encode())
    for name in (INDEX, "about.html", "explorer.html"):
        write_page(site / name, environment().get_template(name).render(**shared).encode("utf-8", "replace"))
    pages = neuron_pages(site)
    sizes = [path.stat().st_size for path in site.rglob("*") if path.is_file()]
    return RenderReport(len(pages), sum(sizes), max((path.stat().st_size for path in pages), default=0), (INDEX, "about.html"))


def _drawing(overview: Overview | None, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the index needs to draw an overview; layers and neurons are linked where they have pages."""
    last = overview.last if overview else None
    pages = {
        layer["layer"]: layer["pages"]
        for entry in entries
        if last and entry["key"] == last.key
        for layer in entry["layers"]
        if layer["pages"]
    }
    unusual = [one for ranking in overview.unusual for one in ranking.neurons] if overview else []
    return {
        "overview": overview,
        "quadrant_bars": quadrant_bars(last.layers) if last else None,
        "class_bars": class_bars(last.layers) if last else None,
        "training": training_figures(overview) if overview else None,
        "class_names": list(CLASSES),
        "fewest_positions": FEWEST_POSITIONS,
        "figure": figure_of(overview.finding) if overview and overview.finding else None,
        "linked": set(pages),
        "linked_neurons": {
            (one.layer, one.neuron)
            for one in unusual
            if any(first <= one.neuron < end for first, end in pages.get(one.layer, ()))
        },
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
        # Only what `rendering` makes: a folder whose folders are layers.
        if folder.is_dir() and folder.name not in keys | {STATIC, STRIPS}:
            layers = list(folder.iterdir())
            if layers and all(layer.is_dir() and layer.name.isdigit() for layer in layers):
                shutil.rmtree(folder)
