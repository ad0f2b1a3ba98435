"""The pages in headless Chromium: what a reader sees, hovers, presses and takes away, compared with brute force."""

import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from gluscope_assets.core.corpus.decoder import visible
from gluscope_assets.core.quadrants import ACTIVATIONS, QUADRANTS, oriented_quadrant
from gluscope_assets.core.site.site import render_site
from gluscope_assets_tests.site.conftest import LATE, needs_chromium, number, requested
from gluscope_assets_tests.support.synthetic import DOCUMENTS, Study

pytestmark = needs_chromium

Place = tuple[int, int]
"""A text and a position in it."""


def settle(page: Page) -> None:
    """Wait until all sections are built."""
    page.wait_for_selector('html[data-ready]:not(:has([aria-busy="true"]))', state="attached")


def open_neuron(page: Page, address: str, neuron: int, more: str = "") -> None:
    page.goto(f"{address}{LATE}/00/{neuron}.html{more}")
    settle(page)


def choose(page: Page, switch: str, value: str) -> None:
    """Press one button of a switch, and wait for what follows."""
    page.locator(f'input[name="{switch}"][value="{value}"]').check(force=True)
    settle(page)


def section(page: Page, quadrant: str) -> Locator:
    return page.locator(f'section[data-quadrant="{quadrant}"]')


def places(rows: Locator) -> list[Place]:
    """Where the peaks of examples are."""
    titles = rows.locator(".source").evaluate_all("all => all.map(element => element.title)")
    found = [re.search(r"text (\d+), position (\d+);", title) for title in titles]
    return [(int(match[1]), int(match[2])) for match in found if match]


def document_of(text: int) -> str:
    return visible(DOCUMENTS[text % len(DOCUMENTS)])


@dataclass(frozen=True)
class Neuron:
    """A neuron of the study in one view, by plain loops over all texts."""

    study: Study
    neuron: int
    view: str = "oriented"

    @property
    def sign(self) -> int:
        return self.study.orientation[self.neuron] if self.view == "oriented" else 1

    def values(self, text: int) -> dict[str, np.ndarray]:
        values = self.study.values(self.neuron, text)
        return {name: values[name] * (self.sign if name in ("in", "post") else 1) for name in values}

    def inside(self, text: int, quadrant: str) -> np.ndarray:
        return self.study.inside(self.neuron, text, oriented_quadrant(quadrant, self.sign))

    def everywhere(self, quadrant: str, activation: str) -> np.ndarray:
        """The values of all positions in a quadrant."""
        texts = range(len(self.study.corpus.texts))
        return np.concatenate([self.values(text)[activation][self.inside(text, quadrant)] for text in texts])

    def strongest(self, quadrant: str, activation: str) -> list[tuple[Place, float]]:
        """The 16 texts with the largest size, each with its first such position and the value there."""
        found = []
        for text in range(len(self.study.corpus.texts)):
            values, inside = self.values(text)[activation], np.flatnonzero(self.inside(text, quadrant))
            if len(inside):
                position = int(min(inside, key=lambda place: (-abs(values[place]), place)))
                found.append(((text, position), float(values[position])))
        return sorted(found, key=lambda entry: (-abs(entry[1]), entry[0]))[:16]

    def sampled(self, quadrant: str) -> list[Place]:
        """The sampled positions in a quadrant, in the sample's order."""
        return [(text, position) for text, position in self.study.sample if self.inside(text, quadrant)[position]]

    def at(self, place: Place, activation: str) -> float:
        return float(self.values(place[0])[activation][place[1]])


# The first screen.


def test_the_first_screen_says_what_the_neuron_does(page: Page, address: str, study: Study) -> None:
    open_neuron(page, address, 1)
    assert page.locator("h1").inner_text() == "Layer 0 · neuron 1"
    for part in (".picture svg", ".tile >> nth=3", ".weights [data-tokens] >> nth=5"):
        box = page.locator(part).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 800, part
    for quadrant in QUADRANTS:
        ((text, position), post), *_ = Neuron(study, 1).strongest(quadrant, "post")
        tile = page.locator(f'.tile[data-quadrant="{quadrant}"]')
        assert number(tile.locator(".strongest").inner_text().removeprefix("post ")) == pytest.approx(post, rel=1e-3)
        tile.locator(".t.peak").focus()
        assert f"text {text}, position {position}, peak" in page.locator("#tip").inner_text()
    assert "conditional strengthening" in page.locator(".weights .class").inner_text()
    assert page.locator(".cosines td:last-child").all_inner_texts() == ["+0.250", "+0.125", "+0.500"]
    for tokens in ("promoted", "suppressed", "gate_positive", "gate_negative", "in_positive", "in_negative"):
        assert page.locator(f'[data-tokens="{tokens}"] li').count() == 10


@dataclass(frozen=True)
class Picture:
    """A neuron's picture, read from its paths. Rows count from below."""

    shades: np.ndarray
    """[rows, columns], 0 where a cell is empty."""
    gate_bars: list[int]
    in_bars: list[int]
    zero: tuple[float, float]
    """In cells, along gate and along in."""
    ticks: tuple[list[tuple[float, float]], list[tuple[float, float]]]
    """(value, place in cells), along gate and along in."""
    legend: list[int]
    """The fewest positions of a cell of shade 1, 2 and so on; 0 for a shade that no cell has."""
    corners: dict[str, tuple[str, bool, bool]]
    """Of each quadrant its share, whether it stands in the right half and whether in the upper one."""


def read_picture(page: Page) -> Picture:
    drawn: dict[str, Any] = page.evaluate("""() => {
        const all = (selector, read) => [...document.querySelectorAll(`.picture ${selector}`)].map(read);
        const get = (...names) => (element) => [...names.map((name) => element.getAttribute(name)), element.textContent];
        return {
            box: all(".cells", get("viewBox"))[0][0], cells: all(".cells path", get("class", "d")),
            bars: all(".margin path", get("d")), zero: all(".zero", get("x1", "y1")),
            across: all(".across", get("x")), up: all(".up", get("y")),
            legend: all(".shade", (shade) => [shade.querySelector("path").getAttribute("class"), shade.textContent]),
            corners: all(".corner", (corner) => [corner.dataset.quadrant, corner.querySelector(".of").textContent,
                corner.querySelector(".of").getAttribute("x"), corner.querySelector(".of").getAttribute("y")]),
        };
    }""")
    columns, rows = map(int, drawn["box"].split()[2:])
    shades = np.zeros((rows, columns), dtype=int)
    for name, path, _ in drawn["cells"]:
        for left, top, length in re.findall(r"M(\d+) (\d+)\.5h(\d+)", path):
            shades[rows - 1 - int(top), int(left) : int(left) + int(length)] = int(name[1:])
    gate_bars, in_bars = [0] * columns, [0] * rows
    (gate_path, _), (in_path, _) = drawn["bars"]
    for column, length in re.findall(r"M(\d+)\.5 100v-(\d+)", gate_path):
        gate_bars[int(column)] = int(length)
    for top, length in re.findall(r"M0 (\d+)\.5h(\d+)", in_path):
        in_bars[rows - 1 - int(top)] = int(length)

    def across(x: str) -> float:
        return (float(x) - 44) / 288 * columns

    def up(y: str, below: float = 0) -> float:
        return (352 + below - float(y)) / 288 * rows

    legend = [0] * max((int(name[1:]) for name, _ in drawn["legend"]), default=0)
    for name, text in drawn["legend"]:
        legend[int(name[1:]) - 1] = int(re.split(r"[+–]", text)[0])
    return Picture(
        shades=shades,
        gate_bars=gate_bars,
        in_bars=in_bars,
        zero=(across(drawn["zero"][0][0]), up(drawn["zero"][1][1])),
        ticks=(
            [(number(text), across(x)) for x, text in drawn["across"]],
            [(number(text), up(y, below=4)) for y, text in drawn["up"]],
        ),
        legend=legend,
        corners={quadrant: (text, float(x) > 188, float(y) < 208) for quadrant, text, x, y in drawn["corners"]},
    )


def cells_of(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Cells from zero on, 39 over the span of the values, of which each side of zero gets at least a sixth; their width."""
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    low, high = min(low, -0.2 * high), max(high, -0.2 * low)
    width = (high - low) / 39
    return np.floor(values / width).astype(int), width


@pytest.mark.parametrize("neuron", [0, 1, 2])
def test_the_picture_is_the_histogram_of_the_sample(page: Page, address: str, study: Study, neuron: int) -> None:
    open_neuron(page, address, neuron)
    picture = read_picture(page)
    rows, columns = picture.shades.shape
    zero = [round(place) for place in picture.zero]
    assert picture.zero == pytest.approx(zero, abs=0.02), "the axes are edges of cells"
    known = Neuron(study, neuron)
    gate, in_ = (np.array([known.at(place, name) for place in study.sample]) for name in ("gate", "in"))
    counts = np.zeros((rows, columns), dtype=int)
    cells, widths = zip(cells_of(gate), cells_of(in_), strict=True)
    for column, row in zip(cells[0] + zero[0], cells[1] + zero[1], strict=True):
        counts[min(row, rows - 1), min(column, columns - 1)] += 1
    assert counts.sum() == len(study.sample) == 300
    assert page.locator("figcaption").inner_text().startswith("300 sampled positions")

    def shade(count: int) -> int:
        return max((place for place, fewest in enumerate(picture.legend, 1) if fewest and fewest <= count), default=0)

    assert (picture.shades == np.vectorize(shade)(counts)).all()
    assert counts[picture.shades == len(picture.legend)].max() == counts.max()
    for bars, sums in ((picture.gate_bars, counts.sum(axis=0)), (picture.in_bars, counts.sum(axis=1))):
        assert bars == [math.ceil(100 * size / sums.max()) for size in sums.tolist()]
    for ticks, at_zero, width in zip(picture.ticks, zero, widths, strict=True):
        assert len(ticks) >= 2
        for value, place in ticks:
            assert place == pytest.approx(at_zero + value / width, abs=0.02)
    shares = {quadrant: page.locator(f'.tile[data-quadrant="{quadrant}"] strong').inner_text() for quadrant in QUADRANTS}
    assert picture.corners == {
        quadrant: (shares[quadrant], quadrant.startswith("gate+"), quadrant.endswith("in+")) for quadrant in QUADRANTS
    }


def test_the_other_view_mirrors_the_picture(page: Page, address: str) -> None:
    open_neuron(page, address, 1)
    before = read_picture(page)
    choose(page, "view", "raw")
    after = read_picture(page)
    assert (after.shades == before.shades[::-1]).all()
    assert after.in_bars == before.in_bars[::-1]
    assert after.gate_bars == before.gate_bars
    assert [value for value, _ in after.ticks[1]] == [-value for value, _ in reversed(before.ticks[1])]
    assert after.corners["gate+_in-"][0] == before.corners["gate+_in+"][0]
    choose(page, "view", "oriented")
    assert_same_picture(read_picture(page), before)


def assert_same_picture(one: Picture, other: Picture) -> None:
    """Places are written to a tenth of the drawing's unit, which is an eightieth of a cell."""
    assert (one.shades == other.shades).all()
    assert (one.gate_bars, one.in_bars, one.legend) == (other.gate_bars, other.in_bars, other.legend)
    assert one.corners == other.corners
    for found, expected in zip((one.zero, *one.ticks), (other.zero, *other.ticks), strict=True):
        assert np.array(found) == pytest.approx(np.array(expected), abs=0.03)


# Statistics.


@pytest.mark.parametrize("neuron", [0, 1, 3])
def test_the_tables_show_the_statistics_of_each_quadrant(page: Page, address: str, study: Study, neuron: int) -> None:
    open_neuron(page, address, neuron)
    known = Neuron(study, neuron)
    for quadrant in QUADRANTS:
        shown, count = section(page, quadrant), len(known.everywhere(quadrant, "gate"))
        assert number(shown.locator(".n").inner_text().removeprefix("n = ")) == count
        share = number(shown.locator(".share").inner_text().rstrip("%"))
        assert share == pytest.approx(100 * count / study.positions, abs=0.05)
        if not count:
            assert shown.inner_text().endswith("No position of the corpus falls in this quadrant.")
            continue
        for activation in ACTIVATIONS:
            everywhere = known.everywhere(quadrant, activation)
            sampled = [known.at(place, activation) for place in known.sampled(quadrant)]
            row = shown.locator(".statistics tbody tr", has=page.locator(f'th:text-is("{activation}")'))
            expected = [everywhere.mean(), everywhere.std(), everywhere[np.abs(everywhere).argmax()]]
            expected += np.quantile(sampled, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
            assert [number(cell) for cell in row.locator("td").all_inner_texts()] == pytest.approx(expected, rel=1e-3)


def test_a_frequency_has_the_interval_of_the_score_test(page: Page, address: str, study: Study) -> None:
    """The ends are the frequencies that so many draws would reject at 5 %: roots of (p − x)² = z² x (1 − x) / n."""
    open_neuron(page, address, 2)
    z2, n = NormalDist().inv_cdf(0.975) ** 2, study.positions
    for quadrant in QUADRANTS:
        p = len(Neuron(study, 2).everywhere(quadrant, "gate")) / n
        expected = sorted(100 * np.roots([1 + z2 / n, -2 * p - z2 / n, p * p]).real)
        shown = section(page, quadrant).locator(".interval").inner_text().split(" to ")
        assert [number(end.rstrip("%")) for end in shown] == pytest.approx(expected, abs=0.051)


# Examples.


@pytest.mark.parametrize("neuron", [0, 1])
def test_each_ranking_lists_the_texts_with_the_largest_values(page: Page, address: str, study: Study, neuron: int) -> None:
    open_neuron(page, address, neuron)
    for rank in ACTIVATIONS:
        choose(page, "rank", rank)
        for quadrant in QUADRANTS:
            expected = Neuron(study, neuron).strongest(quadrant, rank)
            rows = section(page, quadrant).locator(".example")
            assert places(rows) == [place for place, _ in expected]
            values = [number(value) for value in rows.locator(".value").all_text_contents()]
            assert values == pytest.approx([value for _, value in expected], rel=1e-3)
            assert rows.locator(".t.peak").count() == 16
            assert f"The 16 texts with the largest |{rank}|" in section(page, quadrant).locator(".said .what").inner_text()


@pytest.mark.parametrize("neuron", [0, 1])
def test_examples_by_quantile_and_at_random_are_of_the_sample(page: Page, address: str, study: Study, neuron: int) -> None:
    open_neuron(page, address, neuron)
    known = Neuron(study, neuron)
    choose(page, "rank", "random")
    for quadrant in QUADRANTS:
        assert places(section(page, quadrant).locator(".example")) == known.sampled(quadrant)[:8]
    choose(page, "rank", "quantile")
    for quadrant in QUADRANTS:
        rows = section(page, quadrant).locator(".example")
        sizes = [abs(known.at(place, "post")) for place in known.sampled(quadrant)]
        quantiles = [int(text.rstrip("%")) / 100 for text in rows.locator(".rank").all_inner_texts()]
        assert quantiles == [0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.1, 0.01]
        found = places(rows)
        assert set(found) <= set(known.sampled(quadrant))
        expected = [np.quantile(sizes, quantile, method="nearest") for quantile in quantiles]
        assert [abs(known.at(place, "post")) for place in found] == pytest.approx(expected, rel=1e-6)
        peak = rows.first.locator(".t.peak")
        peak.focus()
        shown = {name: number(page.locator(f'#tip [data-activation="{name}"]').inner_text()) for name in ACTIVATIONS}
        assert shown == pytest.approx({name: known.at(found[0], name) for name in ACTIVATIONS}, rel=2e-3)


def alike(study: Study, expected: list[Place]) -> dict[Place, list[Place]]:
    """Of each example that is not folded, those folded under it: the peak the same, at most 2 of 4 + 1 + 4 tokens not."""

    def around(place: Place) -> list[int]:
        text, position = study.corpus.texts[place[0]], place[1]
        return [int(text[at]) if 0 <= at < len(text) else -1 for at in range(position - 4, position + 5)]

    found: dict[Place, list[Place]] = {}
    for place in expected:
        tokens = around(place)
        for leader in found:
            other = around(leader)
            if other[4] == tokens[4] and sum(a != b for a, b in zip(tokens, other, strict=True)) <= 2:
                found[leader].append(place)
                break
        else:
            found[place] = []
    return found


def test_nearly_the_same_contexts_are_folded_with_a_count(page: Page, tmp_path: Path) -> None:
    study = Study(tmp_path / "repeated", texts=("Once upon a time there was a fox. ",), repeats=40)
    study.render(tmp_path / "site")
    render_site(tmp_path / "site", study.site_map())
    page.goto((tmp_path / "site" / LATE / "00" / "0.html").as_uri())
    settle(page)
    folded = 0
    for quadrant in QUADRANTS:
        rows = section(page, quadrant).locator(".example")
        expected = alike(study, [place for place, _ in Neuron(study, 0).strongest(quadrant, "post")])
        assert places(section(page, quadrant).locator(".example:visible")) == list(expected)
        counts = {place: len(others) for place, others in expected.items() if others}
        buttons = rows.locator(".alike")
        assert buttons.all_inner_texts() == [f"+{count} alike" for count in counts.values()]
        folded += len(counts)
        for button in buttons.all():
            button.click()
        assert rows.locator("visible=true").count() == rows.count()
        assert places(section(page, quadrant).locator(".example:visible")) == places(rows)
        for button in buttons.all():
            button.click()
        assert places(section(page, quadrant).locator(".example:visible")) == list(expected)
    assert folded
    choose(page, "rank", "random")
    assert page.locator(".alike").count() == 0, "a random example is shown as often as it was drawn"


def test_the_same_text_in_another_quadrant_is_a_link_away(page: Page, address: str, study: Study) -> None:
    open_neuron(page, address, 0)
    known = Neuron(study, 0)
    for rank in ("post", "gate"):
        choose(page, "rank", rank)
        lists = [[place[0] for place, _ in known.strongest(quadrant, rank)] for quadrant in QUADRANTS]
        rows = section(page, QUADRANTS[0]).locator(".example")
        linked = 0
        for row, text in zip(rows.all(), lists[0], strict=True):
            expected = [f"#q{at}-{rank}-{lists[at].index(text) + 1}" for at in (1, 2, 3) if text in lists[at]]
            links = row.locator(".also")
            assert [links.first.get_attribute("href")] == expected[:1] if expected else links.count() == 0
            linked += bool(expected)
        assert linked
    row = rows.filter(has=page.locator(".also"), visible=True).first
    ((text, _),) = places(row)
    row.locator(".also").click()
    page.wait_for_selector(".example.named")
    assert places(page.locator(".example.named"))[0][0] == text
    row.locator(".more").click()
    names = row.locator(".tools a").all_inner_texts()
    assert names == [
        f"also {quadrant.replace('_', chr(0x2002)).replace('-', '−')} {texts.index(text) + 1}"
        for quadrant, texts in zip(QUADRANTS[1:], lists[1:], strict=True)
        if text in texts
    ]


def test_an_example_has_a_link_of_its_own(page: Page, address: str, study: Study) -> None:
    open_neuron(page, address, 1, "#q1-in-3")
    page.wait_for_selector(".example.named")
    assert page.locator('input[name="rank"][value="in"]').is_checked()
    row = page.locator("#q1-in-3")
    assert places(row) == [Neuron(study, 1).strongest(QUADRANTS[1], "in")[2][0]]
    box = row.bounding_box()
    assert box is not None
    assert 0 < box["y"] < 800
    another = page.locator("#q3 .example:visible").nth(2)
    another.locator(".rank").click()
    page.wait_for_url(f"**/1.html#{another.get_attribute('id')}")
    page.wait_for_selector("#q3 .example.named")
    page.evaluate("location.hash = 'q2-quantile-8'")
    page.wait_for_selector("#q2-quantile-8.named")
    assert page.locator(".named").count() == 1


def test_a_link_to_a_folded_example_shows_it(page: Page, address: str) -> None:
    open_neuron(page, address, 0)
    folded = page.locator(".example.folded").first.get_attribute("id")
    open_neuron(page, address, 1)
    open_neuron(page, address, 0, f"#{folded}")
    page.wait_for_selector(f"#{folded}.named:visible")


def test_the_peak_is_at_one_place_in_all_lines_with_context_on_both_sides(page: Page, address: str, study: Study) -> None:
    open_neuron(page, address, 0)
    rows = page.locator(".example:visible")
    boxes = rows.evaluate_all("all => all.map(row => row.querySelector('.t.peak').getBoundingClientRect().left)")
    assert len(boxes) > 40
    assert max(boxes) - min(boxes) < 1
    for row, (text, position) in zip(rows.all(), places(rows), strict=True):
        last = len(study.corpus.texts[text]) - 1
        assert row.locator(".left .t").count() == min(position, 47)
        assert row.locator(".right .t").count() == 1 + min(last - position, 16)
    sources = rows.locator(".source bdi").all_inner_texts()
    assert sources == [document_of(text) for text, _ in places(rows)]


def test_lines_snippets_and_windows_show_more_and_more_and_are_remembered(page: Page, address: str) -> None:
    open_neuron(page, address, 0)
    most = page.locator(".example:visible").evaluate_all(
        "all => all.map(row => [row.querySelectorAll('.far').length, row.id]).sort((one, other) => other[0] - one[0])[0][1]"
    )
    row = page.locator(f"#{most}")
    heights, shown = [], []
    for layout in ("lines", "snippet", "full"):
        choose(page, "layout", layout)
        box = row.bounding_box()
        assert box is not None
        heights.append(box["height"])
        shown.append(row.locator(".t:visible").count())
    assert heights[0] < heights[1] <= heights[2]
    assert shown[1] <= 32 + 1 + 16 < shown[2] == row.locator(".t").count()
    choose(page, "rank", "in")
    page.locator("#next").click()
    page.wait_for_url("**/00/1.html")
    settle(page)
    assert page.locator('input[name="layout"][value="full"]').is_checked()
    assert page.locator('input[name="rank"][value="in"]').is_checked()
    assert page.locator("body").get_attribute("data-layout") == "full"
    assert "largest |in|" in page.locator(".said .what").first.inner_text()


def test_a_neuron_is_two_files_and_the_second_is_asked_for_once(page: Page, address: str) -> None:
    own = [f"{address}{LATE}/00/1.html", f"{address}{LATE}/00/1.js"]
    with requested(page) as requests:
        open_neuron(page, address, 1)
        assert [request for request in requests if f"/{LATE}/" in request] == own[:1]
        for rank in ("random", "in", "post", "gate"):
            choose(page, "rank", rank)
    assert [request for request in requests if f"/{LATE}/" in request] == own


# Colour and values.


def test_hovering_shows_the_exact_values_of_every_kind_of_token(page: Page, address: str, study: Study) -> None:
    open_neuron(page, address, 1)  # orientation −1: in and post are shown negated
    row, known = section(page, "gate+_in+").locator(".example").first, Neuron(study, 1)
    ((text, peak_position),) = places(row)
    tokens, peak, tip = row.locator(".t"), row.locator(".t.peak"), page.locator("#tip")
    for token in (peak, tokens.nth(tokens.count() // 2), tokens.nth(tokens.count() - 1)):
        token.evaluate("element => element.focus()")
        assert tip.is_visible()
        assert token.get_attribute("aria-describedby") == "tip"
        where = tip.locator(".where").first.inner_text()
        position = int(where.split("position ")[1].split(",")[0])
        assert where.startswith(f"token {study.corpus.texts[text][position]}, text {text}, ")
        for activation in ACTIVATIONS:
            shown = number(tip.locator(f'[data-activation="{activation}"]').inner_text())
            assert shown == pytest.approx(known.at((text, position), activation), rel=2e-4)
    peak.hover()
    shown = number(tip.locator('[data-activation="post"]').inner_text())
    assert shown == pytest.approx(known.at((text, peak_position), "post"), rel=1e-6)
    page.mouse.move(5, 5)
    assert tip.is_hidden()


def test_only_tokens_of_the_quadrant_are_coloured_until_all_are_asked_for(page: Page, address: str) -> None:
    open_neuron(page, address, 0)
    coloured = ".t.positive:not(.special), .t.negative:not(.special)"
    row = section(page, "gate+_in+").locator(".example").first
    own, tokens = row.locator(coloured).count(), row.locator(".t:not(.special)").count()
    assert 0 < own < tokens
    assert row.locator(".t.negative").count() == 0, "post is positive in gate+ in+"
    backgrounds = []
    for colour in ACTIVATIONS:
        choose(page, "colour", colour)
        assert row.locator(coloured).count() == tokens
        assert page.locator("#legend").inner_text().startswith(colour)
        backgrounds.append(row.locator(".t").evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)"))
    assert len({tuple(colours) for colours in backgrounds}) == 4
    choose(page, "colour", "own")
    assert row.locator(coloured).count() == own


def test_one_stated_colour_scale_serves_all_lists(page: Page, address: str, study: Study) -> None:
    open_neuron(page, address, 1)
    known = Neuron(study, 1)
    for activation in ACTIVATIONS:
        choose(page, "colour", activation)
        most = max(abs(known.everywhere(quadrant, activation)).max() for quadrant in QUADRANTS)
        for rank in ("post", "gate", "random"):
            choose(page, "rank", rank)
            ends = re.findall(r"[−+][\d.e]+", page.locator("#legend").inner_text())
            assert [number(end) for end in ends] == pytest.approx([-most, most], rel=6e-3)
            peak = section(page, "gate-_in+").locator(".t.peak").first
            place = places(section(page, "gate-_in+").locator(".example").first)[0]
            depth = float(peak.evaluate("element => element.style.getPropertyValue('--depth')"))
            assert depth == pytest.approx(math.sqrt(abs(known.at(place, activation)) / most), abs=2e-3)


def test_tapping_a_token_shows_its_values(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    open_neuron(page, address, 0)
    page.locator(".example .t.peak").first.tap(position={"x": 3, "y": 8})
    tip = page.locator("#tip")
    assert tip.locator('[data-activation="post"]').is_visible()
    box = tip.bounding_box()
    assert box is not None
    assert 0 <= box["x"] <= box["x"] + box["width"] <= 390
    page.locator("h1").tap()
    assert tip.is_hidden()
    page.locator(".example .more").first.tap()
    assert page.locator(".example .tools").first.is_visible()
    context.close()


def test_the_values_of_a_window_are_a_table(page: Page, address: str, study: Study) -> None:
    open_neuron(page, address, 1)
    row, known = section(page, "gate-_in+").locator(".example").first, Neuron(study, 1)
    ((text, peak),) = places(row)
    row.locator(".more").click()
    assert row.locator(".more").get_attribute("aria-expanded") == "true"
    button = row.get_by_role("button", name="Values as a table")
    button.click()
    table = row.get_by_role("table", name="Values of each token of the window")
    assert table.get_by_role("columnheader").all_inner_texts() == ["position", "token", "id", *ACTIVATIONS]
    tokens = study.corpus.texts[text]
    cells = table.locator("tbody tr").evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.textContent))")
    assert [int(position) for position, *_ in cells] == list(range(max(peak - 47, 0), min(peak + 17, len(tokens))))
    for position, _, token, *values in cells:
        place = text, int(position)
        assert int(token) == tokens[place[1]]
        assert [number(value) for value in values] == pytest.approx([known.at(place, name) for name in ACTIVATIONS], rel=2e-4)
    assert table.locator(".peak th").inner_text() == str(peak)
    button.click()
    assert table.count() == 0


# What a reader takes away.


@contextmanager
def reading_clipboard(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    yield context.new_page()
    context.close()


def test_an_example_its_link_and_the_citation_are_copied_as_text(browser: Browser, address: str, study: Study) -> None:
    with reading_clipboard(browser) as page:

        def copied(button: str) -> str:
            pressed = page.locator(button)
            pressed.click()
            expect(pressed).to_have_text("Copied")
            return str(page.evaluate("navigator.clipboard.readText()"))

        open_neuron(page, address, 0)
        row, known = page.locator(".example").first, Neuron(study, 0)
        ((text, position),) = places(row)
        row.locator(".more").click()
        window, rest = copied(".tools button >> nth=0").rsplit("\n\n", 1)
        values, source, link = rest.rstrip("\n").split("\n")
        pieces = [visible(piece) for piece in study.decoder.pieces(study.corpus.texts[text].tolist())]
        pieces = [piece.replace("↵\n", "\n").replace("⇥\t", "\t") for piece in pieces]
        before, after = pieces[max(position - 47, 0) : position], pieces[position + 1 : position + 17]
        assert window == f"{''.join(before)}«{pieces[position]}»{''.join(after)}"
        shown = dict(value.split(" ") for value in values.split(", "))
        assert {name: number(value) for name, value in shown.items()} == pytest.approx(
            {name: known.at((text, position), name) for name in ACTIVATIONS}, rel=1e-4
        )
        assert source == f"{document_of(text)}, text {text}, position {position}"
        assert link == f"{address}{LATE}/00/0.html#q0-post-1"
        assert copied(".tools button >> nth=1") == link
        assert copied("#copy-citation") == page.locator("#bibtex").inner_text()


def test_the_citation_names_address_study_checkpoint_and_hash(page: Page, address: str) -> None:
    open_neuron(page, address, 1, "?view=raw#q0-post-1")
    entry = page.locator("#bibtex").inner_text()
    assert entry.startswith(f"@misc{{gluscope-synthetic-{LATE}-0-1,\n")
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", entry, re.MULTILINE))
    assert fields["url"] == f"{address}{LATE}/00/1.html"
    assert fields["title"] == "Layer 0, neuron 1 of made-up"
    assert "study synthetic" in fields["howpublished"]
    assert fields["note"] == f"checkpoint {LATE}, weights ab12cd300000"
    assert entry.count("{") == entry.count("}")


@pytest.mark.parametrize("view", ["oriented", "raw"])
def test_the_download_holds_what_the_tables_hold(page: Page, address: str, study: Study, view: str) -> None:
    open_neuron(page, address, 1, f"?view={view}")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == f"synthetic-{LATE}-layer-0-neuron-1.json"
    content = json.loads(Path(download.value.path()).read_text())
    known = Neuron(study, 1, view)
    names = ("study", "checkpoint", "layer", "neuron", "view", "orientation", "positions", "activation")
    assert [content[name] for name in names] == ["synthetic", LATE, 0, 1, view, -1, study.positions, "silu"]
    assert content["zero"] == study.positions - sum(len(known.everywhere(quadrant, "in")) for quadrant in QUADRANTS)
    for quadrant in QUADRANTS:
        statistics, examples = content["statistics"][quadrant], content["examples"][quadrant]
        assert (statistics["count"], statistics["sampled"]) == (
            len(known.everywhere(quadrant, "gate")),
            len(known.sampled(quadrant)),
        )
        for activation in ACTIVATIONS:
            values = known.everywhere(quadrant, activation)
            expected = {"mean": values.mean(), "std": values.std(), "largest": values[np.abs(values).argmax()]}
            sampled = [known.at(place, activation) for place in known.sampled(quadrant)]
            expected |= {f"quantile_{q}": np.quantile(sampled, q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}
            assert statistics[activation] == pytest.approx(expected, rel=1e-5)
        kinds = ["gate", "in", "act", "post"] if quadrant.startswith("gate-") else ["gate", "in", "post"]
        assert list(examples) == [*kinds, "random", "quantile"]
        for kind in kinds:
            expected_list = known.strongest(quadrant, kind)
            assert [(one["text"], one["position"]) for one in examples[kind]] == [place for place, _ in expected_list]
            assert [one["value"] for one in examples[kind]] == pytest.approx([value for _, value in expected_list], rel=1e-6)
        assert [(one["text"], one["position"]) for one in examples["random"]] == known.sampled(quadrant)[:8]
        for one in (examples["post"][0], examples["in"][1]):
            first, count = one["window_start"], len(one["token_ids"])
            window = slice(first, first + count)
            assert one["token_ids"] == study.corpus.texts[one["text"]][window].tolist()
            assert one["document"] == document_of(one["text"])
            for activation in ("gate", "in"):
                assert one[activation] == pytest.approx(known.values(one["text"])[activation][window].tolist(), rel=1e-4)
    cosines = {"cos(gate, in)": -0.25, "cos(gate, out)": -0.125, "cos(in, out)": 0.5}
    if view == "oriented":
        cosines |= {"cos(gate, in)": 0.25, "cos(gate, out)": 0.125}
    assert content["weights"]["cosines"] == cosines
    raw = study._weights(1)
    promoted = raw["promoted"] if view == "raw" else raw["suppressed"]
    assert [chip["id"] for chip in content["weights"]["tokens"]["promoted"]] == [entry["token"] for entry in promoted]


# Keys and links.


def test_keys_lead_to_other_neurons_and_through_a_line(page: Page, address: str) -> None:
    open_neuron(page, address, 1)
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**/{LATE}/00/2.html")
    page.keyboard.press("k")
    page.wait_for_url(f"**/{LATE}/00/1.html")
    settle(page)
    page.keyboard.press("r")
    page.wait_for_url(lambda url: re.search(rf"/{LATE}/0[01]/\d+\.html$", url) is not None and "/00/1.html" not in url)
    open_neuron(page, address, 5)
    page.locator("#next").click()
    page.wait_for_url(f"**/{LATE}/01/0.html")
    settle(page)
    tip = page.locator("#tip .where").first
    page.locator(".example .t.peak").first.focus()
    first = tip.inner_text()
    page.keyboard.press("ArrowLeft")
    assert tip.inner_text() != first
    page.keyboard.press("ArrowRight")
    assert tip.inner_text() == first
    page.keyboard.press("ArrowDown")
    assert tip.inner_text() != first
    assert page.evaluate("document.activeElement === document.querySelectorAll('.example:not(.folded) .t.peak')[1]")
    page.keyboard.press("ArrowUp")
    assert tip.inner_text() == first
    assert page.url.endswith("/01/0.html"), "inside a line the arrow keys move between tokens"
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_every_switch_has_a_key(page: Page, address: str) -> None:
    open_neuron(page, address, 1)
    for key, switch, order in (
        ("c", "colour", ["gate", "in", "act", "post", "own"]),
        ("w", "layout", ["snippet", "full", "lines"]),
        ("v", "view", ["raw", "oriented"]),
    ):
        for expected in order:
            page.keyboard.press(key)
            settle(page)
            assert page.locator(f'input[name="{switch}"]:checked').get_attribute("value") == expected
    page.locator('input[name="rank"][value="post"]').focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    assert page.locator('input[name="rank"][value="quantile"]').is_checked()
    assert page.url.endswith("/1.html"), "inside a switch the arrow keys choose"


def test_all_that_can_be_pressed_is_reached_by_the_tab_key(page: Page, address: str) -> None:
    open_neuron(page, address, 1)
    page.locator("#next").focus()
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(e => e.name || e.tagName + (e.classList.length ? '.' + e.classList[0] : ''))(document.activeElement)"
            )
        )
    order = [name for place, name in enumerate(reached) if name not in reached[:place]]
    for name in ("view", "SPAN.t", "UL", "SUMMARY", "rank", "colour", "layout", "A.rank", "BUTTON.more"):
        assert name in order, (name, order)


def test_the_same_neuron_at_other_checkpoints_is_linked(page: Page, address: str) -> None:
    open_neuron(page, address, 2)
    page.click("#training a")
    page.wait_for_url("**/early-0000000/00/2.html")


# The two views.


def shown(page: Page) -> str:
    """All that a neuron page shows, without its picture's drawing, its last tooltip, its data, and what other files bring."""
    html = page.evaluate("""() => {
        const main = document.querySelector("main").cloneNode(true);
        for (const part of main.querySelectorAll("#data, #tip, #training, .picture > svg")) part.remove();
        main.querySelector("#view")?.removeAttribute("data-own");
        return main.innerHTML;
    }""")
    return str(html)


@pytest.fixture(scope="module")
def sites(study: Study, site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The study's pages rendered in each view."""
    raw = tmp_path_factory.mktemp("raw")
    study.render(raw, view="raw")
    render_site(raw, study.site_map())
    return {"oriented": site, "raw": raw}


@pytest.mark.parametrize("neuron", [1, 3])
def test_the_switched_page_is_the_page_rendered_in_the_other_view(page: Page, sites: dict[str, Path], neuron: int) -> None:
    def tips() -> list[str]:
        page.mouse.move(0, 0)  # where no token is
        tokens = page.locator('.list:is([data-quadrant="gate+_in-"], [data-quadrant="gate-_in+"]) .example:not(.folded) .t')
        found = []
        for place in range(0, tokens.count(), tokens.count() // 5):
            tokens.nth(place).evaluate("element => element.focus({ preventScroll: true })")
            found.append(page.locator("#tip").inner_text())
        page.keyboard.press("Escape")
        return found

    def look() -> tuple[dict[str, str], list[str], Picture]:
        html = {}
        for rank in ("gate", "act", "quantile", "post", "in"):
            choose(page, "rank", rank)
            page.evaluate("document.activeElement.blur()")
            html[rank] = shown(page)
        return html, tips(), read_picture(page)

    found = {}
    for own, other in (("oriented", "raw"), ("raw", "oriented")):
        page.goto((sites[own] / LATE / "00" / f"{neuron}.html").as_uri() + f"?view={own}")
        settle(page)
        found[own, own] = look()
        choose(page, "view", other)
        found[own, other] = look()
    for view in ("oriented", "raw"):
        (html, told, picture), (same_html, same_told, same_picture) = found["oriented", view], found["raw", view]
        assert html == same_html
        assert told == same_told
        assert_same_picture(picture, same_picture)
        assert "NaN" not in "".join(html.values())
    assert found["raw", "raw"][0]["post"] != found["oriented", "oriented"][0]["post"]


def test_switching_twice_gives_back_the_page_and_asks_for_nothing(page: Page, address: str) -> None:
    open_neuron(page, address, 1)
    with requested(page) as requests:
        before, text = shown(page), page.locator("body").inner_text()
        counts = [page.locator(f'.tile[data-quadrant="{quadrant}"] .n').inner_text() for quadrant in QUADRANTS]
        page.evaluate("document.getElementById('view').querySelector('[value=raw]').click()")  # as a key or a reader would
        settle(page)
        raw = [page.locator(f'.tile[data-quadrant="{quadrant}"] .n').inner_text() for quadrant in QUADRANTS]
        assert raw == [counts[1], counts[0], counts[3], counts[2]]
        assert "Raw view" in page.locator("#view").inner_text()
        assert "Oriented" not in page.locator("#view").inner_text()
        assert shown(page) != before
        choose(page, "view", "oriented")
        assert shown(page) == before
        assert page.locator("body").inner_text() == text
        page.locator(".example .t.peak").first.focus()
        page.keyboard.press("v")
        assert page.locator("#tip").is_hidden()
        page.keyboard.press("v")
        settle(page)
        assert shown(page) == before
    # A key announces that the second file may be needed; the icon and the diagram below the fold are no data.
    assert [request for request in requests if not request.endswith((".svg", "/1.js"))] == []


def test_a_link_shows_the_view_and_the_view_stays_from_neuron_to_neuron(browser: Browser, page: Page, address: str) -> None:
    open_neuron(page, address, 1)
    assert page.url.endswith("/1.html")
    choose(page, "view", "raw")
    assert page.url.endswith("/1.html?view=raw")
    link = page.url + "#q0-post-2"
    page.locator("#next").click()
    page.wait_for_url("**/00/2.html")
    settle(page)
    assert page.locator("#view").count() == 0
    assert "the raw view is the same" in page.locator(".view").inner_text()
    page.locator("#next").click()
    page.wait_for_url("**/00/3.html?view=raw")
    assert page.locator('#view [data-view="raw"]').is_visible()
    choose(page, "view", "oriented")
    assert page.url.endswith("/3.html")
    other = browser.new_context().new_page()
    other.goto(link)
    settle(other)
    assert other.url == link
    assert other.locator('#view [data-view="raw"]').is_visible()
    assert other.locator('#view input[value="raw"]').is_checked()
    other.context.close()


# Where pages are read.


def test_pages_work_from_disk_with_both_files(page: Page, site: Path) -> None:
    page.goto((site / LATE / "00" / "0.html").as_uri())
    settle(page)
    assert page.locator(".example").count() == 64
    assert page.locator(".t.positive").first.evaluate("e => getComputedStyle(e).backgroundColor") != "rgba(0, 0, 0, 0)"
    choose(page, "rank", "random")
    assert page.locator(".example").count() == 32
    with page.expect_download() as download:
        page.click("#download")
    assert json.loads(Path(download.value.path()).read_text())["neuron"] == 0
    assert "url" not in page.locator("#bibtex").inner_text(), "an address on this disk leads nobody anywhere"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/00/1.html")


def test_a_page_whose_second_file_is_missing_says_so(browser: Browser, site: Path, tmp_path: Path) -> None:
    (tmp_path / LATE / "00").mkdir(parents=True)
    (tmp_path / "static").symlink_to(site / "static")
    (tmp_path / LATE / "00" / "0.html").symlink_to(site / LATE / "00" / "0.html")
    page = browser.new_page()
    page.goto((tmp_path / LATE / "00" / "0.html").as_uri())
    settle(page)
    page.locator('input[name="rank"][value="gate"]').check(force=True)
    page.get_by_text("These lists are in 0.js, which is not beside this page.").first.wait_for()
    page.locator('input[name="rank"][value="post"]').check(force=True)
    settle(page)
    assert page.locator(".example").count() == 64
    page.close()


def test_a_neuron_needs_no_scripts_for_all_but_the_other_lists(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(f"{address}{LATE}/00/0.html")
    assert page.locator(".picture .cells path").count() > 0
    assert page.locator(".statistics tbody td").count() == 4 * 4 * 8
    for quadrant in QUADRANTS:
        assert section(page, quadrant).locator(".example").count() == 3
        assert page.locator(f'.tile[data-quadrant="{quadrant}"] mark').is_visible()
    assert page.locator(".nojs").is_visible()
    for needless in ("#controls", "#download", "#tip", "#random"):
        assert page.locator(needless).is_hidden(), needless
    assert page.locator("#bibtex").inner_text().startswith("@misc{")
    assert page.locator("#next").get_attribute("href") == "1.html"
    page.goto(f"{address}{LATE}/00/1.html?view=raw")
    assert page.locator("#view").inner_text().startswith("Oriented by s = −1")
    assert page.locator("#view .switch").is_hidden()
    page.goto(f"{address}index.html")
    assert page.locator(f'.places a[href="{LATE}/00/index.html"]').is_visible()
    context.close()


@pytest.mark.parametrize("path", ["index.html", "about.html", f"{LATE}/00/index.html", f"{LATE}/00/1.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(browser: Browser, address: str, path: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(address + path)
    if path.endswith("1.html"):
        settle(page)
        page.locator(".example .more").first.click()
        page.get_by_role("button", name="Values as a table").click()
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    context.close()


def test_a_printed_page_has_what_paper_can_show(page: Page, address: str) -> None:
    open_neuron(page, address, 1)
    page.emulate_media(media="print")
    for gone in ("#controls", ".walk", "#view .switch", ".cite .actions", ".example .more >> nth=0"):
        assert page.locator(gone).is_hidden(), gone
    for kept in (".picture", ".statistics >> nth=3", ".example:not(.folded) >> nth=0", "#bibtex"):
        assert page.locator(kept).is_visible(), kept


def test_no_page_allows_inline_code_or_other_hosts(page: Page, address: str) -> None:
    for path in ("index.html", "about.html", "explorer.html", f"{LATE}/00/index.html", f"{LATE}/00/0.html"):
        page.goto(address + path)
        policy = page.locator('meta[http-equiv="Content-Security-Policy"]').get_attribute("content") or ""
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'none'"
        assert {source for rule in rules.values() for source in rule.split()} <= {"'none'", "'self'", "file:"}


# Odd studies.


def built(study: Study, site: Path) -> str:
    """The address on disk of the study's neuron 0."""
    study.render(site)
    render_site(site, study.site_map())
    return (site / LATE / "00" / "0.html").as_uri()


def test_a_study_without_a_sample_has_pages_that_say_so(page: Page, tmp_path: Path) -> None:
    study = Study(tmp_path / "study", sampled=0)
    page.goto(built(study, tmp_path / "site"))
    settle(page)
    assert page.locator(".picture .cells path").count() == 0
    assert "keeps no sample of positions" in page.locator("figcaption").inner_text()
    row = page.locator(".statistics tbody tr").first.locator("td").all_inner_texts()
    assert row[3:] == ["–"] * 5
    for rank in ("random", "quantile"):
        choose(page, "rank", rank)
        assert page.locator(".said .what").all_inner_texts() == ["No sampled position falls in this quadrant."] * 4
    choose(page, "rank", "gate")
    assert page.locator(".example").count() == 64


def test_values_beyond_sixteen_bits_are_exact(page: Page, tmp_path: Path) -> None:
    page.goto(built(Study(tmp_path / "wide", wide=True), tmp_path / "site"))
    settle(page)
    choose(page, "rank", "gate")
    section(page, "gate+_in+").locator(".t.peak").first.focus()
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
    page: Page, tmp_path: Path, activation: str, label: str, formula: Callable[[float], float]
) -> None:
    page.goto(built(Study(tmp_path / "study", activation=activation), tmp_path / "site"))
    settle(page)
    assert f"act = {label}(gate)" in page.locator(".facts").inner_text()
    tokens = section(page, "gate-_in+").locator(".example").first.locator(".t:not(.peak)")
    for place in range(0, tokens.count(), 5):
        tokens.nth(place).evaluate("element => element.focus()")
        gate, act = (number(page.locator(f'#tip [data-activation="{name}"]').inner_text()) for name in ("gate", "act"))
        assert act == pytest.approx(formula(gate), rel=2e-3, abs=1e-7)


# The pages around the neurons.


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
