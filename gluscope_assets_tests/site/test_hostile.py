"""Hostile texts, tokens and names in headless Chromium: shown as text on every kind of page, which stays whole."""

import pytest
from playwright.sync_api import Browser, Page

from gluscope_assets.core.corpus.decoder import visible
from gluscope_assets.core.quadrants import ACTIVATIONS
from gluscope_assets_tests.site.conftest import LATE, needs_chromium
from gluscope_assets_tests.site.test_pages import choose, open_neuron, places, settle
from gluscope_assets_tests.support.synthetic import BEGIN, DOCUMENTS, HOSTILE, LONG_WORD, Study

pytestmark = needs_chromium

PAGES = (
    "index.html",
    "explorer.html",
    "about.html",
    f"{LATE}/00/index.html",
    *(f"{LATE}/00/{neuron}.html" for neuron in range(6)),
)


FOREIGN = (
    "img:not([src*='static/'])",
    "base",
    "textarea",
    "template",
    "style",
    "body title",
    "script:not([src]):not([type='application/json'])",
    *("[onload]", "[onerror]", "[href^='javascript:' i]", "[href^='//']"),
)
"""What the texts would make of a page if they were more than text."""


def assert_intact(page: Page) -> None:
    """No element, handler or address of the texts' own, and nothing beyond the edge of the window."""
    assert page.locator(", ".join(FOREIGN)).evaluate_all("all => all.map(element => element.outerHTML)") == []
    assert page.evaluate("document.documentElement.scrollWidth === innerWidth")


@pytest.mark.parametrize("path", PAGES)
def test_no_text_becomes_a_part_of_a_page(page: Page, address: str, path: str) -> None:
    page.goto(address + path)
    if path.startswith(LATE) and not path.endswith("index.html"):
        settle(page)
        for rank in (*ACTIVATIONS, "random", "quantile"):
            choose(page, "rank", rank)
            assert_intact(page)
        choose(page, "layout", "full")
        page.locator(".example:visible .more").first.click()
        page.get_by_role("button", name="Values as a table").click()
    else:
        page.wait_for_load_state("networkidle")
    assert_intact(page)


@pytest.mark.parametrize("path", [f"{LATE}/00/0.html", f"{LATE}/00/index.html", "index.html"])
def test_no_text_becomes_a_part_of_a_page_without_scripts(browser: Browser, address: str, path: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address + path)
    assert page.locator(", ".join(FOREIGN)).count() == 0
    # Nothing that a text could have opened encloses what follows.
    assert page.locator("body > footer").count() == 1
    context.close()


def test_every_token_of_every_window_is_shown_as_text(page: Page, address: str, study: Study) -> None:
    seen = set()
    for neuron in range(4):
        open_neuron(page, address, neuron)
        for rank in (*ACTIVATIONS, "random"):
            choose(page, "rank", rank)
            rows = page.locator(".example")
            lines = rows.evaluate_all(
                "all => all.map(row => [...row.querySelectorAll('.line .t')].map(token => token.textContent))"
            )
            peaks = rows.evaluate_all(
                "all => all.map(row => [...row.querySelectorAll('.line .t')].findIndex(token => token.matches('.peak')))"
            )
            for (text, position), shown, peak in zip(places(rows), lines, peaks, strict=True):
                pieces = study.decoder.pieces(study.corpus.texts[text].tolist())
                # The line feed itself is an element.
                expected = [visible(piece).replace("\n", "") for piece in pieces]
                assert shown == expected[position - peak : position - peak + len(shown)]
                seen.update(shown)
    text = "".join(seen)
    assert "\ufffd" not in text
    for shown_whole in (
        "日",
        "😀",
        "🇩",
        LONG_WORD,
        "⟨ED⟩",
        "⟨A0⟩",
        "⟨RLO⟩",
        "⟨ZWSP⟩",
        "␀",
        "␛",
        "⟨LS⟩",
        "`",
        "<",
        "&",
        '"',
        "'",
        BEGIN,
    ):
        assert shown_whole in text, shown_whole
    for hidden in "\u202e\u200b\x00\x1b\x7f\u2028\ufeff":
        assert hidden not in text


def test_a_long_word_leaves_room_for_the_rest(page: Page, address: str, study: Study) -> None:
    open_neuron(page, address, 0)
    token = study.tokenizer.token_to_id(LONG_WORD)
    choose(page, "rank", "gate")
    page.locator(".example:visible .t", has_text=LONG_WORD).first.focus()
    tip = page.locator("#tip")
    assert f"token {token}," in tip.inner_text()
    box = tip.bounding_box()
    assert box is not None
    assert 0 <= box["y"] <= box["y"] + box["height"] <= 800
    assert tip.locator('[data-activation="post"]').is_visible()


def test_names_of_documents_are_text_and_only_addresses_of_pages_are_links(page: Page, address: str) -> None:
    open_neuron(page, address, 0)
    choose(page, "rank", "gate")
    names = page.locator(".example .source bdi")
    assert {visible(name) for name in DOCUMENTS} == set(names.all_text_contents())
    links = {link.get_attribute("href") for link in names.locator("a").all()}
    assert links == {name for name in DOCUMENTS if name.startswith("https:")}
    for link in names.locator("a").all():
        assert link.get_attribute("rel") == "noopener noreferrer"
    titles = page.locator(".source").evaluate_all("all => all.map(element => element.title)")
    assert any(title.startswith(f"{HOSTILE}.txt, text ") for title in titles)
