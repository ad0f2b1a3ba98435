"""Pages as files: what they hold, how large they are, which are deleted, and what a checker of links finds."""

import html
import json
import re
from pathlib import Path

import pytest

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.options import PageSelection
from gluscope_assets.core.pages.formats import format_number, safe_json
from gluscope_assets.core.pages.site_map import SiteMap, read_manifest
from gluscope_assets.core.site.links import broken_links, neuron_pages, oversized_pages
from gluscope_assets.core.site.site import render_site
from gluscope_assets_tests.support.synthetic import HOSTILE, Study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def site(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: tests must not change it."""
    return study.build(tmp_path_factory.mktemp("site"))


def test_every_selected_neuron_has_a_page_and_every_link_resolves(site: Path) -> None:
    names = [str(page.relative_to(site)) for page in neuron_pages(site)]
    assert len(names) == 2 * 6 + 2 * 3
    assert broken_links(site) == []
    assert oversized_pages(site) == []
    pages = [[(layer["layer"], layer["pages"]) for layer in entry["layers"]] for entry in read_manifest(site)["checkpoints"]]
    assert pages == [[(0, [[0, 3]]), (1, [[0, 3]])], [(0, [[0, 6]]), (1, [[0, 6]])]]


def test_rendering_again_gives_the_same_bytes(study: Study, site: Path, tmp_path: Path) -> None:
    study.build(tmp_path)
    files = [path.relative_to(site) for path in site.rglob("*") if path.is_file()]
    assert all((tmp_path / name).read_bytes() == (site / name).read_bytes() for name in files)


def test_pages_that_are_no_longer_selected_are_deleted(study: Study, tmp_path: Path) -> None:
    study.build(tmp_path)
    fewer = (PageSelection(checkpoints="last", neurons=2),)
    chosen = SiteMap(**{**vars(study.site_map()), "pages": fewer})
    study.render(tmp_path, site_map=chosen)
    pages = sorted(path.name for path in (tmp_path / "late-1111111" / "00").glob("[0-9]*.html"))
    assert pages == ["0.html", "1.html"]


def test_a_checkpoint_without_selected_neurons_leaves_no_page(study: Study, tmp_path: Path) -> None:
    study.build(tmp_path)
    last = SiteMap(**{**vars(study.site_map()), "pages": (PageSelection(checkpoints="last", neurons="all"),)})
    for layer in range(2):
        assert study.render(tmp_path, "early-0000000", layer, site_map=last).pages == 0
    render_site(tmp_path, last)
    assert not list((tmp_path / "early-0000000").rglob("*.html"))
    assert broken_links(tmp_path) == []


def test_a_page_does_not_change_when_a_checkpoint_is_added(study: Study, site: Path, tmp_path: Path) -> None:
    before = study.site_map()
    more = SiteMap(**{**vars(before), "checkpoints": (("first-2222222", "first"), *before.checkpoints)})
    study.render(tmp_path, site_map=more)
    name = Path("late-1111111", "00", "3.html")
    assert (tmp_path / name).read_bytes() == (site / name).read_bytes()


def test_flipped_neurons_swap_quadrants_in_the_oriented_view_only(study: Study, tmp_path: Path) -> None:
    def counts(view: str, neuron: int) -> list[str]:
        study.render(tmp_path / view, view=view)
        text = (tmp_path / view / "late-1111111" / "00" / f"{neuron}.html").read_text()
        tiles = dict(re.findall(r'data-quadrant="([^"]+)">\s*<header>.*?n = ([^<]+)<', text, re.DOTALL))
        return [tiles[name] for name in ("gate+_in+", "gate+_in-", "gate-_in+", "gate-_in-")]

    assert counts("raw", 0) == counts("oriented", 0)
    raw, oriented = counts("raw", 1), counts("oriented", 1)
    assert raw != oriented
    assert [raw[1], raw[0], raw[3], raw[2]] == oriented


def test_hostile_texts_never_leave_their_place(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert HOSTILE not in text
        assert set(re.findall(r"<img([^>]{0,40})", text)) <= {' src="../../static/quadrants.svg" width='}
        scripts = re.findall(r"<script[^>]*>", text)
        assert all("src=" in script or 'type="application/json"' in script for script in scripts)
        assert not re.search(r"\son[a-z]+=\"", re.sub(r'"[^"]*"', '""', text))
    assert any(html.escape(HOSTILE) in page.read_text() for page in neuron_pages(site))


def test_json_in_a_page_cannot_end_its_script() -> None:
    value = {"text": f"{HOSTILE} <!-- \u2028 & '"}
    embedded = str(safe_json(value))
    assert not set("<>&\u2028") & set(embedded)
    assert json.loads(embedded) == value


def test_broken_links_and_large_pages_are_found(study: Study, tmp_path: Path) -> None:
    study.build(tmp_path)
    (tmp_path / "late-1111111" / "00" / "2.html").unlink()
    problems = broken_links(tmp_path)
    assert any("1.html links to 2.html" in problem for problem in problems)
    assert any("neurons.js names" in problem for problem in problems)
    assert len(oversized_pages(tmp_path, limit=1000)) == len(neuron_pages(tmp_path))


def test_an_unknown_activation_is_one_sentence(tmp_path: Path) -> None:
    study = Study(tmp_path / "study", activation="warp")
    with pytest.raises(InputError, match="warp") as raised:
        study.render(tmp_path / "site")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("*.html"))


def test_a_site_without_pages_still_opens(study: Study, tmp_path: Path) -> None:
    render_site(tmp_path, study.site_map())
    assert "No neuron pages yet" in (tmp_path / "index.html").read_text()
    assert broken_links(tmp_path) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0, "0"), (1.23456, "1.235"), (-0.27846, "−0.2785"), (1e-9, "1.000e−9"), (-2e9, "−2.000e9")],
)
def test_numbers_are_short_and_have_a_true_minus(value: float | None, shown: str) -> None:
    assert format_number(value) == shown
