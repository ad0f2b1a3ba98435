"""The overview in headless Chromium: figures inside their axes, tables beneath them, links, narrow screens, no scripts."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page

from gluscope_assets_tests.site.conftest import LATE, needs_chromium, number
from gluscope_assets_tests.support.synthetic import Study

pytestmark = needs_chromium

FIGURES = ".bars, .lines"


def boxes(parts: Locator) -> list[dict[str, float]]:
    """Where the parts lie that are drawn at all."""
    found: list[dict[str, float]] = parts.evaluate_all(
        "all => all.map(e => e.getBoundingClientRect()).map(({left, right, top, bottom}) => ({left, right, top, bottom}))"
    )
    return found


@pytest.mark.parametrize("width", [1280, 390])
def test_figures_lie_inside_their_axes_and_on_the_page(browser: Browser, address: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    page.goto(f"{address}index.html")
    assert page.locator(".bars").count() == 2
    assert page.locator(".lines").count() == 4 + 1 + 2, "quadrants, the class that neurons have, correlation and distance"
    for plot in page.locator(FIGURES).all():
        (frame,) = boxes(plot)
        assert frame["right"] - frame["left"] > 100
        inside = boxes(plot.locator(".part-of, .trace, .dots"))
        assert inside
        for box in inside:
            # A dot and the edge of a bar are as wide as their stroke.
            assert frame["left"] - 3 <= box["left"] <= box["right"] <= frame["right"] + 3
            assert frame["top"] - 3 <= box["top"] <= box["bottom"] <= frame["bottom"] + 3
        for text in boxes(plot.locator("text")):
            assert 0 <= text["left"] <= text["right"] <= width
        labels = boxes(plot.locator(".label"))
        assert labels
        for above, below in pairwise(labels):
            assert below["top"] - above["top"] > 10, "labels do not cover one another"
    context.close()


def test_bars_are_as_high_as_the_shares_in_the_table(page: Page, address: str, study: Study) -> None:
    page.goto(f"{address}index.html")
    shares = [0.0] * 4
    for neuron in range(study.width):
        counts = [
            sum(int(study.inside(neuron, text, quadrant).sum()) for text in range(len(study.corpus.texts)))
            for quadrant in ("gate+_in+", "gate+_in-", "gate-_in+", "gate-_in-")
        ]
        if study.orientation[neuron] < 0:
            counts = [counts[1], counts[0], counts[3], counts[2]]
        shares = [share + count / study.positions / study.width for share, count in zip(shares, counts, strict=True)]
    figure = page.locator("section[aria-labelledby=quadrants]")
    (frame,) = boxes(figure.locator(".bars"))
    for kind, share in enumerate(shares):
        for box in boxes(figure.locator(f".part-of.q{kind}")):
            assert (box["bottom"] - box["top"]) / (frame["bottom"] - frame["top"]) == pytest.approx(share, abs=0.02)
    figure.locator("summary").click()
    for row in figure.locator("tbody tr").all():
        cells = row.locator("td").all_inner_texts()
        assert number(cells[0]) == study.width
        assert [number(cell.rstrip("%")) / 100 for cell in cells[1:5]] == pytest.approx(shares, abs=6e-4)
        assert number(cells[6]) == study.positions


def test_every_figure_has_a_table_beneath_it_that_the_keyboard_opens_and_scrolls(page: Page, address: str) -> None:
    page.goto(f"{address}index.html")
    figures = page.locator("main figure")
    assert figures.count() == 2 + 1 + 3
    for figure in figures.all():
        details = figure.locator("xpath=following-sibling::*[1]")
        assert details.evaluate("e => e.tagName") == "DETAILS"
        table = details.locator("table")
        assert table.is_hidden()
        details.locator("summary").focus()
        page.keyboard.press("Enter")
        assert table.is_visible()
        assert table.locator("tbody tr").count() >= 2
        assert table.locator("thead th[scope=col]").count() == table.locator("tbody tr").first.locator("th, td").count()
    regions = page.locator("[role=region]")
    assert regions.count() == 6
    assert regions.evaluate_all("all => all.every(e => e.tabIndex === 0 && e.getAttribute('aria-label'))")


def test_what_was_measured_is_said(page: Page, address: str, study: Study) -> None:
    page.goto(f"{address}index.html")
    section = page.locator(".measured")
    assert "A made-up study." in section.inner_text()
    assert "2026-01-02" in section.inner_text()
    section.locator("summary").click()
    early, late = section.locator("tbody tr").all()
    assert "not recorded" in early.inner_text()
    cells = late.locator("td").all_inner_texts()
    assert cells[1] == "1111111" + "e" * 57
    assert [number(cells[place].rstrip("s ")) for place in (4, 5, 6)] == [12345, 2.5, 4938]
    assert cells[7:] == ["not recorded", "float32"]
    assert "c0ffee" + "0" * 58 in section.inner_text()


def test_links_lead_to_neurons_layers_and_the_explorer(page: Page, address: str) -> None:
    page.goto(f"{address}index.html")
    targets = page.locator(".ranking a").evaluate_all("all => all.map(e => e.getAttribute('href'))")
    assert targets
    assert all(re.fullmatch(rf"{LATE}/0[01]/\d+\.html", target) for target in targets)
    page.click(".ranking a >> nth=0")
    page.wait_for_url(f"**/{targets[0]}")
    page.go_back()
    assert page.locator(".places tbody tr").count() == 2
    page.click(f'.places a[href="{LATE}/01/index.html"]')
    page.wait_for_url(f"**/{LATE}/01/index.html")
    page.go_back()
    page.click("text=Explore all neurons")
    page.wait_for_url("**/explorer.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_with_all_tables_open_nothing_is_wider_than_a_phone(browser: Browser, site: Path, scheme: str) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 844},
        color_scheme=scheme,  # type: ignore[arg-type]
        java_script_enabled=False,
    )
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    for summary in page.locator("summary").all():
        summary.click()
    assert page.locator(".bars").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    context.close()


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const luminance = colour => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const linear = [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255);
    const [r, g, b] = linear.map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = luminance(getComputedStyle(document.body).backgroundColor);
  const contrast = colour => {
    const [low, high] = [luminance(colour), paper].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const least = (selector, property) =>
    Math.min(...[...document.querySelectorAll(selector)].map(e => contrast(getComputedStyle(e)[property])));
  const root = getComputedStyle(document.documentElement);
  const kinds = [..."0123"].map(n => "--q" + n).concat([..."012345"].map(n => "--c" + n));
  return {
    kinds: Math.min(...kinds.map(name => contrast(root.getPropertyValue(name).trim()))),
    lines: least(".trace", "stroke"),
    plots: least(".bars text, .lines text", "fill"),
    texts: least("main p, main dt, main dd, main th, main td, main figcaption, main a, main summary", "color"),
  };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out_from_the_paper(browser: Browser, address: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{address}index.html")
    contrast = page.evaluate(CONTRAST)
    assert min(contrast["kinds"], contrast["lines"]) >= 3
    assert min(contrast["plots"], contrast["texts"]) >= 4.5
    context.close()


def test_the_index_prints_on_paper_without_its_controls(page: Page, address: str) -> None:
    page.goto(f"{address}index.html")
    page.emulate_media(media="print")
    assert page.locator(".explore").is_hidden()
    assert page.locator(".bars").first.is_visible()
