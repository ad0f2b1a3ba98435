"""The strip of the same neuron along training."""

from pathlib import Path

import pytest
from playwright.sync_api import Page

from gluscope_assets.core.pages.formats import format_share
from gluscope_assets.core.quadrants import QUADRANTS, oriented_quadrant
from gluscope_assets.core.site.site import render_site
from gluscope_assets_tests.site.conftest import LATE, needs_chromium
from gluscope_assets_tests.support.synthetic import Study

pytestmark = needs_chromium


def shares(page: Page, stage: int) -> list[str]:
    return page.locator("#training li").nth(stage).locator("dd.share").all_inner_texts()


def expected(study: Study, neuron: int, sign: int) -> list[str]:
    found = []
    for quadrant in QUADRANTS:
        raw = oriented_quadrant(quadrant, sign)
        count = sum(int(study.inside(neuron, text, raw).sum()) for text in range(len(study.corpus.texts)))
        found.append(format_share(count / study.positions))
    return found


@pytest.mark.parametrize("neuron", [1, 2])
def test_the_strip_shows_every_checkpoint_in_the_view_of_the_page(page: Page, address: str, study: Study, neuron: int) -> None:
    page.goto(f"{address}{LATE}/00/{neuron}.html")
    page.wait_for_selector("#training li")
    assert page.locator("#training li").count() == 2
    assert page.locator("#training [aria-current]").inner_text() == "late"
    sign = study.orientation[neuron]
    for stage in range(2):
        assert shares(page, stage) == expected(study, neuron, sign)
    for quadrant, snippet in zip(QUADRANTS, page.locator("#training li").first.locator(".snippet").all(), strict=True):
        best = page.locator(f'.tile[data-quadrant="{quadrant}"] .t.peak')
        if best.count():
            assert snippet.locator("mark").inner_text() == best.inner_text()
    if sign < 0:
        page.locator('#view input[value="raw"]').check(force=True)
        page.wait_for_function("document.querySelector('#training .note').textContent.includes('as the models compute them')")
        assert shares(page, 0) == expected(study, neuron, 1)


def test_the_strip_leads_to_the_same_neuron_elsewhere(page: Page, address: str) -> None:
    page.goto(f"{address}{LATE}/00/2.html")
    page.click("#training a")
    page.wait_for_url("**/early-0000000/00/2.html")
    page.goto(f"{address}{LATE}/00/5.html")
    page.wait_for_selector("#training li")
    assert page.locator("#training a").count() == 0, "this neuron has no page at the other checkpoint"


def test_a_study_of_one_checkpoint_has_no_strip(page: Page, study: Study, tmp_path: Path) -> None:
    study.render(tmp_path, LATE)
    render_site(tmp_path, study.site_map())
    page.goto((tmp_path / LATE / "00" / "2.html").as_uri())
    page.wait_for_selector(".t.peak")
    assert page.locator("#training").is_hidden()
    assert not (tmp_path / "training").exists()
