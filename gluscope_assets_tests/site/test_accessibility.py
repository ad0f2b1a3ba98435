"""Every kind of page against WCAG 2.1 AA, as far as axe-core can tell: light and dark, on a desk and on a phone."""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from gluscope_assets_tests.site.conftest import LATE, needs_chromium
from gluscope_assets_tests.site.test_pages import choose, settle

pytestmark = needs_chromium

NEURON = f"{LATE}/00/1.html"
PAGES = (NEURON, f"{LATE}/00/index.html", "index.html", "explorer.html", "about.html")
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa")


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core."""
    return (files("axe_playwright_python") / "axe.min.js").read_text()


# Each size and each scheme once: no color depends on the size.
SCREENS = {"desk-light": (1280, 800, "light"), "phone-dark": (390, 844, "dark")}
IN_USE = {
    "desk-light": [("post", "lines", "own"), ("in", "snippet", "post")],
    "phone-dark": [("quantile", "full", "gate")],
}
"""Ranking, layout and what colors stand for."""


@pytest.fixture(params=SCREENS)
def screen(browser: Browser, request: pytest.FixtureRequest, axe: str) -> Iterator[Page]:
    """A page into which axe-core may be put: the policy of the site's own pages refuses it."""
    width, height, scheme = SCREENS[request.param]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=True)
    context.add_init_script(axe)
    yield context.new_page()
    context.close()


def violations(page: Page) -> list[str]:
    """What axe-core objects to, each with the first elements that it is about."""
    found: dict[str, Any] = page.evaluate(
        "rules => axe.run({ runOnly: { type: 'tag', values: rules }, resultTypes: ['violations'] })", list(RULES)
    )
    return [
        f"{one['id']}: {node['target'][0]} ({node['failureSummary'].splitlines()[-1].strip()}), one of {len(one['nodes'])}"
        for one in found["violations"]
        for node in one["nodes"][:3]
    ]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_meets_the_guidelines(screen: Page, address: str, path: str) -> None:
    screen.goto(address + path)
    screen.wait_for_load_state("networkidle")
    for details in screen.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    assert violations(screen) == []


@pytest.mark.parametrize(("screen", "used"), IN_USE.items(), ids=IN_USE, indirect=["screen"])
def test_a_neuron_in_use_meets_the_guidelines(screen: Page, used: list[tuple[str, str, str]], address: str) -> None:
    """With an opened example, its values as a table, and the values of a token."""
    screen.goto(address + NEURON)
    settle(screen)
    for rank, layout, colour in used:
        choose(screen, "rank", rank)
        choose(screen, "layout", layout)
        choose(screen, "colour", colour)
        row = screen.locator(".example:visible").first
        row.locator(".more").click()
        row.get_by_role("button", name="Values as a table").click()
        row.locator(".t.peak").focus()
        assert screen.locator("#tip").is_visible()
        assert violations(screen) == [], (rank, layout, colour)


def test_the_check_finds_what_is_wrong(screen: Page, address: str) -> None:
    screen.goto(address + "about.html")
    screen.evaluate("document.querySelector('h1').setAttribute('style', 'color: #999; background: #aaa')")
    screen.evaluate("document.querySelector('main').append(document.createElement('button'))")
    assert {violation.split(":")[0] for violation in violations(screen)} == {"color-contrast", "button-name"}
