"""The pages in headless Chromium: what a reader sees, hovers and presses, and what hostile texts cannot do."""

import functools
import http.server
import math
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from gluscope_assets.core.quadrants import QUADRANTS, oriented_quadrant
from gluscope_assets.core.site import render_site
from gluscope_assets_tests.site.synthetic import HOSTILE, Study

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; .ci/run installs it")

LATE = "late-1111111"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def site(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study.build(tmp_path_factory.mktemp("served") / "some" / "prefix")


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site under a path prefix of a plain static server."""
    handler = functools.partial(_Quiet, directory=str(site.parents[1]))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/some/prefix/"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that must end without a console message of its own, a dialog, or a request that leaves the site."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: (troubles.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: None if _is_local(request.url) else troubles.append(f"request {request.url}"))
    yield page
    page.close()
    assert troubles == []


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "file:///", "data:", "blob:"))


def open_neuron(page: Page, address: str, neuron: int) -> None:
    page.goto(f"{address}{LATE}/00/{neuron}.html")
    page.wait_for_selector(".t.peak")


def number(text: str) -> float:
    return float(text.replace("−", "-").replace("\u202f", "").replace(",", "").replace("+", ""))


@pytest.mark.parametrize("neuron", [0, 1])
def test_the_tables_show_the_stored_statistics_in_the_oriented_view(
    page: Page, address: str, study: Study, neuron: int
) -> None:
    open_neuron(page, address, neuron)
    sign = study.orientation[neuron]
    for shown in QUADRANTS:
        raw = oriented_quadrant(shown, sign)
        tile = page.locator(f'.tile[data-quadrant="{shown}"]')
        masks = [study.inside(neuron, text, raw) for text in range(len(study.corpus.texts))]
        count = int(sum(mask.sum() for mask in masks))
        assert number(tile.locator(".n").inner_text().removeprefix("n = ")) == count
        assert number(tile.locator("strong").inner_text().rstrip("%")) == pytest.approx(100 * count / study.positions, rel=0.01)
        for activation in ("gate", "in", "act", "post"):
            values = np.concatenate([study.values(neuron, text)[activation][mask] for text, mask in enumerate(masks)])
            values = values * (sign if activation in ("in", "post") else 1)
            cells = tile.locator("tbody tr", has=page.locator(f'th:text-is("{activation}")')).locator("td").all_inner_texts()
            expected = [values.mean(), values.std(), values[np.abs(values).argmax()]]
            assert [number(cell) for cell in cells] == pytest.approx(expected, rel=1e-3)


def test_hovering_shows_the_exact_values_of_every_kind_of_token(page: Page, address: str, study: Study) -> None:
    neuron = 1  # orientation −1: in and post are shown negated
    open_neuron(page, address, neuron)
    row = page.locator('section[data-quadrant="gate+_in+"] .example').first
    source = row.locator(".source").get_attribute("title") or ""
    text = int(source.split("text ")[1].split(",")[0])
    tokens = row.locator(".t")
    peak = row.locator(".t.peak")
    for token in (peak, tokens.nth(tokens.count() // 2), tokens.nth(tokens.count() - 1)):
        token.evaluate("element => element.focus()")
        tip = page.locator("#tip")
        assert tip.is_visible()
        position = int(tip.locator(".where").first.inner_text().split("position ")[1].split(",")[0])
        values = study.values(neuron, text)
        for activation in ("gate", "in", "act", "post"):
            exact = values[activation][position] * (-1 if activation in ("in", "post") else 1)
            assert number(tip.locator(f'[data-activation="{activation}"]').inner_text()) == pytest.approx(exact, rel=2e-4)
    peak.hover()
    values_at_peak = study.values(neuron, text)["post"]
    position = int((source.split("position ")[1]).split(";")[0])
    shown = number(page.locator('#tip [data-activation="post"]').inner_text())
    assert shown == pytest.approx(-values_at_peak[position], rel=1e-6)


def test_only_tokens_of_the_quadrant_are_coloured_until_all_are_asked_for(page: Page, address: str) -> None:
    open_neuron(page, address, 0)
    coloured = ".t.positive:not(.special), .t.negative:not(.special)"
    row = page.locator('section[data-quadrant="gate+_in+"] .example').first
    own, tokens = row.locator(coloured).count(), row.locator(".t:not(.special)").count()
    assert 0 < own < tokens
    assert row.locator(".t.negative").count() == 0, "post is positive in gate+ in+"
    backgrounds = []
    for colour in ("gate", "in", "act", "post"):
        page.locator(f'input[name="colour"][value="{colour}"]').check(force=True)
        assert row.locator(coloured).count() == tokens
        assert colour in page.locator("#legend").inner_text()
        backgrounds.append(row.locator(".t").evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)"))
    assert len({tuple(colours) for colours in backgrounds}) == 4
    page.locator('input[name="colour"][value="own"]').check(force=True)
    assert row.locator(coloured).count() == own


def test_every_ranking_shows_sixteen_open_examples_in_order(page: Page, address: str) -> None:
    open_neuron(page, address, 0)
    for rank in ("gate", "in", "act", "post"):
        page.locator(f'input[name="rank"][value="{rank}"]').check(force=True)
        for quadrant in QUADRANTS:
            values = page.locator(f'section[data-quadrant="{quadrant}"] .example .value').all_inner_texts()
            sizes = [abs(number(value)) for value in values]
            assert len(sizes) == 16
            assert sizes == sorted(sizes, reverse=True)
            assert page.locator(f'section[data-quadrant="{quadrant}"] .example .t.peak').count() == 16


def test_keys_lead_to_other_neurons_and_through_a_line(page: Page, address: str) -> None:
    open_neuron(page, address, 1)
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**/{LATE}/00/2.html")
    page.keyboard.press("k")
    page.wait_for_url(f"**/{LATE}/00/1.html")
    page.wait_for_selector(".t.peak")
    page.keyboard.press("r")
    page.wait_for_url(lambda url: re.search(rf"/{LATE}/0[01]/\d+\.html$", url) is not None and "/00/1.html" not in url)
    open_neuron(page, address, 5)
    page.locator("#next").click()
    page.wait_for_url(f"**/{LATE}/01/0.html")
    page.wait_for_selector(".t.peak")
    page.locator(".t.peak").first.focus()
    first = page.locator("#tip .where").first.inner_text()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#tip .where").first.inner_text() != first
    assert page.url.endswith("/01/0.html"), "inside a line the arrow keys move between tokens"
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_tapping_a_token_shows_its_values(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    open_neuron(page, address, 0)
    page.locator(".t.peak").first.tap()
    assert page.locator('#tip [data-activation="post"]').is_visible()
    context.close()


def test_hostile_texts_are_text(page: Page, address: str) -> None:
    for neuron in range(3):
        open_neuron(page, address, neuron)
        page.locator('input[name="layout"][value="full"]').check(force=True)
        assert page.locator("img").count() == 0
        assert page.locator("main script:not([type='application/json'])").count() == 0
    lines = page.locator(".example .line").all_inner_texts()
    assert any("onerror=alert(1)" in line for line in lines)
    assert any(HOSTILE in (name or "") for name in page.locator(".source").evaluate_all("all => all.map(e => e.title)"))


def test_split_characters_show_whole(page: Page, address: str) -> None:
    seen = ""
    for neuron in range(4):
        open_neuron(page, address, neuron)
        for rank in ("gate", "in", "post"):
            page.locator(f'input[name="rank"][value="{rank}"]').check(force=True)
            seen += "".join(page.locator(".t").all_text_contents())
    assert "\ufffd" not in seen
    assert "日本語" in seen
    assert "😀" in seen


def test_the_index_leads_to_a_neuron(page: Page, address: str) -> None:
    page.goto(f"{address}index.html")
    page.select_option("#pick-checkpoint", label="late")
    page.select_option("#pick-layer", "1")
    page.fill("#pick-neuron", "4")
    page.click("#picker button")
    page.wait_for_url(f"**/{LATE}/01/4.html")
    page.goto(f"{address}index.html")
    page.select_option("#pick-checkpoint", label="early")
    page.fill("#pick-neuron", "4")
    page.click("#picker button")
    assert "Neuron 4 has no page at early" in page.locator("#pick-note").inner_text()


def test_the_figure_of_the_index_has_its_marks_inside_its_axes_and_leads_to_its_layers(page: Page, address: str) -> None:
    page.goto(f"{address}index.html")
    assert page.locator(".scatter").count() == 2
    for plot in page.locator(".scatter").all():
        frame = plot.bounding_box()
        assert frame is not None
        for mark in plot.locator(".marks").all():
            box = mark.bounding_box()
            assert box is not None
            assert frame["x"] < box["x"] <= box["x"] + box["width"] < frame["x"] + frame["width"]
            assert frame["y"] < box["y"] <= box["y"] + box["height"] < frame["y"] + frame["height"]
    assert page.locator(".numbers").is_hidden()
    page.click(".finding summary")
    assert page.locator(".numbers tbody tr").count() == 2
    page.click(".panel a >> nth=1")
    page.wait_for_url(f"**/{LATE}/01/index.html")


def test_the_same_neuron_at_other_checkpoints_is_linked(page: Page, address: str) -> None:
    open_neuron(page, address, 2)
    page.click("#checkpoints a")
    page.wait_for_url("**/early-0000000/00/2.html")


def shown(page: Page) -> str:
    """All that a neuron page shows below its heading line and its last tooltip, without the data and the study's view."""
    html = page.evaluate("""() => {
        const main = document.querySelector("main").cloneNode(true);
        for (const part of main.querySelectorAll("#data, #tip")) part.remove();
        main.querySelector("#view")?.removeAttribute("data-own");
        return main.innerHTML;
    }""")
    return str(html)


def choose_view(page: Page, view: str) -> None:
    page.locator(f'#view input[value="{view}"]').check(force=True)


@pytest.mark.parametrize("neuron", [1, 3])
@pytest.mark.parametrize(("own", "other"), [("oriented", "raw"), ("raw", "oriented")])
def test_the_switched_page_is_the_page_rendered_in_the_other_view(
    page: Page, study: Study, tmp_path: Path, neuron: int, own: str, other: str
) -> None:
    for view in (own, other):
        study.render(tmp_path / view, view=view)
        render_site(tmp_path / view, study.site_map())
    rendered: dict[tuple[str, str], str] = {}
    tips: dict[str, list[str]] = {}

    def tell() -> list[str]:
        page.mouse.move(0, 0)  # where no token is
        tokens = page.locator(
            'section[data-quadrant="gate+_in-"] .example, section[data-quadrant="gate-_in+"] .example'
        ).locator(".t")
        found = []
        for place in range(0, tokens.count(), tokens.count() // 5):
            tokens.nth(place).evaluate("element => element.focus({ preventScroll: true })")
            found.append(page.locator("#tip").inner_text())
        page.keyboard.press("Escape")
        return found

    def look(view: str) -> None:
        for rank in ("gate", "in", "act", "post"):
            page.locator(f'input[name="rank"][value="{rank}"]').check(force=True)
            if rank == "in":
                tips[view] = tell()
            page.evaluate("document.activeElement.blur()")
            rendered[view, rank] = shown(page)

    for view in (other, own):
        page.goto((tmp_path / view / LATE / "00" / f"{neuron}.html").as_uri() + f"?view={view}")
        page.wait_for_selector(".t.peak")
        look(view)
    before, before_tips = dict(rendered), dict(tips)
    assert before[own, "post"] != before[other, "post"]
    assert "NaN" not in "".join(before.values())
    choose_view(page, other)
    look(other)
    choose_view(page, own)
    look(own)
    assert rendered == before
    assert tips == before_tips


def test_switching_twice_gives_back_the_page_and_asks_for_nothing(page: Page, address: str) -> None:
    open_neuron(page, address, 1)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    before, text = shown(page), page.locator("body").inner_text()
    counts = [page.locator(f'.tile[data-quadrant="{quadrant}"] .n').inner_text() for quadrant in QUADRANTS]
    choose_view(page, "raw")
    raw = [page.locator(f'.tile[data-quadrant="{quadrant}"] .n').inner_text() for quadrant in QUADRANTS]
    assert raw == [counts[1], counts[0], counts[3], counts[2]]
    assert "Raw view" in page.locator("#view").inner_text()
    assert "Oriented" not in page.locator("#view").inner_text()
    assert shown(page) != before
    choose_view(page, "oriented")
    assert shown(page) == before
    assert page.locator("body").inner_text() == text
    page.locator(".t.peak").first.focus()
    page.keyboard.press("v")
    assert page.locator("#tip").is_hidden()
    page.keyboard.press("v")
    assert shown(page) == before
    # Chromium looks at the icon again whenever the address changes.
    assert [request for request in requests if not request.endswith("icon.svg")] == []


def test_a_link_shows_the_view_and_the_view_stays_from_neuron_to_neuron(browser: Browser, page: Page, address: str) -> None:
    open_neuron(page, address, 1)
    assert page.url.endswith("/1.html")
    choose_view(page, "raw")
    assert page.url.endswith("/1.html?view=raw")
    link = page.url + "#q0-post-2"
    page.locator("#next").click()
    page.wait_for_url("**/00/2.html")
    page.wait_for_selector(".t.peak")
    assert page.locator("#view").count() == 0
    assert "the raw view is the same" in page.locator(".view").inner_text()
    page.locator("#next").click()
    page.wait_for_url("**/00/3.html?view=raw")
    assert page.locator('#view [data-view="raw"]').is_visible()
    choose_view(page, "oriented")
    assert page.url.endswith("/3.html")
    other = browser.new_context().new_page()
    other.goto(link)
    other.wait_for_selector(".t.peak")
    assert other.url == link
    assert other.locator('#view [data-view="raw"]').is_visible()
    assert other.locator('#view input[value="raw"]').is_checked()
    other.context.close()


def test_pages_work_from_disk(page: Page, site: Path) -> None:
    page.goto((site / LATE / "00" / "0.html").as_uri())
    page.wait_for_selector(".t.peak")
    assert page.locator(".example").count() == 64
    assert page.locator(".t.positive").first.evaluate("e => getComputedStyle(e).backgroundColor") != "rgba(0, 0, 0, 0)"
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/00/1.html")


def test_statistics_and_first_examples_need_no_scripts(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}{LATE}/00/0.html")
    assert page.locator(".tile tbody td").count() == 4 * 4 * 3
    for quadrant in QUADRANTS:
        assert page.locator(f'section[data-quadrant="{quadrant}"] .example').count() == 3
    assert page.locator(".nojs").is_visible()
    assert page.locator("#next").get_attribute("href") == "1.html"
    page.goto(f"{address}{LATE}/00/1.html?view=raw")
    assert page.locator("#view").inner_text().startswith("Oriented by s = −1")
    assert page.locator("#view .switch").is_hidden()
    page.goto(f"{address}index.html")
    assert page.locator(f'a[href="{LATE}/00/0.html"]').is_visible()
    context.close()


@pytest.mark.parametrize("path", ["index.html", "about.html", f"{LATE}/00/index.html", f"{LATE}/00/0.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(browser: Browser, address: str, path: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(address + path)
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    context.close()


def test_values_beyond_sixteen_bits_are_exact(page: Page, tmp_path: Path) -> None:
    study = Study(tmp_path / "wide", wide=True)
    study.render(tmp_path / "site")
    render_site(tmp_path / "site", study.site_map())
    page.goto((tmp_path / "site" / LATE / "00" / "0.html").as_uri())
    page.locator('input[name="rank"][value="gate"]').check(force=True)
    page.locator('section[data-quadrant="gate+_in+"] .t.peak').first.focus()
    cells = page.locator("#tip [data-activation]").all_inner_texts()
    assert [number(cell) for cell in cells] == pytest.approx([1e5, 1e-9, 1e5, 1e-4], rel=1e-4)


@pytest.mark.parametrize(
    ("activation", "label", "formula"),
    [
        ("gelu", "GELU", lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2)))),
        ("gelu_tanh", "GELU (tanh)", lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        ("relu", "ReLU", lambda x: max(x, 0.0)),
        ("relu_squared", "ReLU²", lambda x: max(x, 0.0) ** 2),
        ("quick_gelu", "Swish with β = 1.702", lambda x: x / (1 + math.exp(-1.702 * x))),
        ("sigmoid", "sigmoid", lambda x: 1 / (1 + math.exp(-x))),
    ],
)
def test_act_follows_from_gate_by_the_models_own_activation(
    page: Page, study: Study, tmp_path: Path, activation: str, label: str, formula: Callable[[float], float]
) -> None:
    study.render(tmp_path, activation=activation)
    render_site(tmp_path, study.site_map())
    page.goto((tmp_path / LATE / "00" / "0.html").as_uri())
    assert f"act = {label}(gate)" in page.locator(".facts").inner_text()
    tokens = page.locator('section[data-quadrant="gate-_in+"] .example').first.locator(".t:not(.peak)")
    for place in range(0, tokens.count(), 5):
        tokens.nth(place).evaluate("element => element.focus()")
        gate, act = (number(page.locator(f'#tip [data-activation="{name}"]').inner_text()) for name in ("gate", "act"))
        assert act == pytest.approx(formula(gate), rel=2e-3, abs=1e-7)
