"""The checker of a built site: every page of the manifest is there, and a neuron's files keep their budget together."""

import random
from pathlib import Path

import pytest

from gluscope_assets.core.pages.site_map import MANIFEST, manifest_text
from gluscope_assets.core.site.links import broken_links, oversized_pages


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Layer 3 of one checkpoint with pages of the neurons 1, 2 and 5, and layer 4 with none."""
    folder = tmp_path / "late-1111111" / "03"
    folder.mkdir(parents=True)
    for neuron in (1, 2, 5):
        (folder / f"{neuron}.html").write_text("x" * 60)
        (folder / f"{neuron}.js").write_text("y" * 10 * neuron)
    layers = [{"layer": 3, "width": 9, "pages": [[1, 3], [5, 6]]}, {"layer": 4, "width": 9, "pages": []}]
    entry = {"key": "late-1111111", "name": "late", "layers": layers}
    (tmp_path / MANIFEST).write_text(manifest_text({"study": "made-up", "checkpoints": [entry]}))
    return tmp_path


def test_every_page_of_the_manifest_must_be_there(site: Path) -> None:
    assert broken_links(site) == []
    for neuron in (2, 5):
        (site / "late-1111111" / "03" / f"{neuron}.html").unlink()
    assert broken_links(site) == [f"neurons.js names late-1111111/03/{neuron}.html, which does not exist." for neuron in (2, 5)]


def test_a_neurons_files_are_weighed_together(site: Path) -> None:
    page = site / "late-1111111" / "03" / "5.html"
    page.with_suffix(".js").write_bytes(random.Random(0).randbytes(9000))
    assert oversized_pages(site, limit=9500) == []
    (sentence,) = oversized_pages(site, limit=9000)
    assert sentence.startswith("5.html in ")
    page.with_suffix(".js").write_bytes(b"0" * 90000)
    assert oversized_pages(site, limit=9000) == [], "what compresses well is sent fast"
