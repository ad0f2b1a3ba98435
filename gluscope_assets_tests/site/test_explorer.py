"""The explorer in headless Chromium: every way to sort, filter, search, brush, link and download, against brute force."""

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, Page, expect

from gluscope_assets.core.corpus.decoder import visible
from gluscope_assets.core.files import write_parquet
from gluscope_assets.core.pages import explorer_columns
from gluscope_assets.core.pages.contexts import TOKENS_AFTER, TOKENS_BEFORE
from gluscope_assets.core.pages.explorer_columns import token_columns, write_columns
from gluscope_assets.core.pages.site_map import manifest_text
from gluscope_assets.core.paths import MANIFEST, LayerTables
from gluscope_assets.core.quadrants import QUADRANTS, oriented_quadrant
from gluscope_assets.core.site.site import render_site
from gluscope_assets.core.tables import schema
from gluscope_assets_tests.site.conftest import LATE, needs_chromium, number
from gluscope_assets_tests.support.synthetic import HOSTILE, Study

pytestmark = needs_chromium

EARLY = "early-0000000"
WIDTH, LAYERS = 24, 2
CLASSES = ("weakening", "orthogonal output", "conditional strengthening")


class Varied(Study):
    """More neurons, of several classes, that promote different tokens."""

    def _weights(self, neuron: int) -> dict[str, Any]:
        row = super()._weights(neuron)
        promoted = [{"token": token, "score": 1.0} for token in range(300 + neuron, 303 + neuron)]
        return row | {"class": CLASSES[neuron % 3], "cos_in_out": math.sin(neuron), "promoted": promoted}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Varied(tmp_path_factory.mktemp("study"), width=WIDTH)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The first checkpoint: the same neurons with other activations."""
    return Varied(tmp_path_factory.mktemp("earlier"), width=WIDTH, seed=1)


@pytest.fixture(scope="module")
def site(study: Study, earlier: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = study.build(tmp_path_factory.mktemp("served") / "some" / "prefix")
    for layer in range(LAYERS):
        earlier.write_columns(site, EARLY, layer)
    return site


def open_explorer(page: Page, address: str, state: str = "") -> None:
    page.goto("about:blank")
    page.goto(f"{address}explorer.html{state}")
    settle(page)


def settle(page: Page) -> None:
    page.wait_for_selector('#explorer[aria-busy="false"] .head')
    page.wait_for_timeout(50)


def names(page: Page) -> list[tuple[int, int]]:
    """(layer, neuron) of the rows that are drawn."""
    texts = page.locator(".line-row .of-place > :first-child").all_inner_texts()
    return [(int(layer), int(neuron)) for layer, neuron in (text.split(" · ") for text in texts)]


def cells(page: Page, heading: str) -> list[str]:
    """The texts of a column, by the title of its heading."""
    headings = page.locator(".head .cell").evaluate_all("all => all.map(e => e.querySelector('button')?.title || e.innerText)")
    place = next((place for place, title in enumerate(headings) if title.startswith(heading)), -1)
    assert place >= 0, heading
    return page.locator(f".line-row > :nth-child({place + 1})").all_inner_texts()


def counted(page: Page) -> int:
    return int(number(page.locator("#count b").inner_text()))


def sort(page: Page, field: str, **options: Any) -> None:
    page.locator(f'.head [data-sort="{field}"]').click(**options)
    settle(page)


def counts(study: Study, neuron: int) -> dict[str, int]:
    """Of each quadrant of the oriented view."""
    found = {}
    for quadrant in QUADRANTS:
        inside = sum(int(study.inside(neuron, text, quadrant).sum()) for text in range(len(study.corpus.texts)))
        found[oriented_quadrant(quadrant, study.orientation[neuron])] = inside
    return found


def shares(study: Study, quadrant: str) -> np.ndarray:
    return np.array([counts(study, neuron)[quadrant] / study.positions for neuron in range(WIDTH)])


def gate_shares(study: Study) -> np.ndarray:
    return shares(study, "gate+_in+") + shares(study, "gate+_in-")


def ordered(*keys: np.ndarray) -> list[tuple[int, int]]:
    """The rows of both layers, whose tables are equal, by keys of the neurons; ties by layer and neuron."""
    rows = [(layer, neuron) for layer in range(LAYERS) for neuron in range(WIDTH)]
    # As the browser holds them, and without what the order of additions leaves.
    narrow = [np.round(key, 9).astype(np.float32) for key in keys]
    return sorted(rows, key=lambda row: (*(key[row[1]] for key in narrow), row))


def in_table(page: Page, expected: list[tuple[int, int]]) -> None:
    """The table holds these rows in this order, of which those in sight are drawn."""
    assert counted(page) == len(expected)
    drawn = names(page)
    assert drawn == expected[: len(drawn)]
    assert len(drawn) >= min(12, len(expected))


# What it can show

OWN = {"gate+_routed_frequency", "smallest_routed_frequency", "zero_routed_frequency", "change"}
"""Fields that are no columns of the tables: the explorer computes them."""
ONE_NEURON = """{
  counts: [[1], [2], [3], [4]], quadrants: [[5], [6], [7], [8]], cosines: [[9], [10], [11]], seen: [12], zero: [2],
  code: [0], classOf: [0], mlps: [["mlp", 1, 0, 2]],
}"""


def test_the_fields_are_the_declared_columns(page: Page, address: str) -> None:
    """Each field needs the script that its column is declared for, and turns as the column is declared to."""
    open_explorer(page, address)
    fields = page.evaluate(
        f"""() => {{
          const numbers = [...gluscope.explorer.fields.values()].filter((field) => field.at && field.id !== "change");
          const at = (field, flip) => field.at({ONE_NEURON}, 0, flip, {{ layer: 3 }});
          return numbers.map((field) => [field.id, field.group, at(field, false), at(field, true)]);
        }}"""
    )
    group_of = {name: group for name, group, *_ in fields if name not in OWN}
    tokens = {name for names in token_columns().values() for name in names}
    declared = {one.name: one for one in schema.neurons().columns if one.explorer and one.name not in tokens}
    assert group_of == {name: one.explorer for name, one in declared.items()}
    raw, turned = ({name: values[flip] for name, _, *values in fields} for flip in (0, 1))
    for name, one in declared.items():
        assert turned[name] == raw[one.counterpart] * (-1 if one.changes_sign() else 1), name


def test_the_roles_of_tokens_are_the_declared_lists(page: Page, address: str) -> None:
    open_explorer(page, address)
    roles = page.evaluate("() => Object.values(gluscope.explorer.ROLES)")
    shown = {(group, raw[0]): turned[0] for _, group, raw, turned in roles if group != "tokens-peaks"}
    declared = {
        (group, place): names.index(schema.WEIGHTS[name].counterpart)
        for group, names in token_columns().items()
        for place, name in enumerate(names)
    }
    assert shown == declared


# The table


def test_the_table_holds_all_neurons_with_their_shares(page: Page, address: str, study: Study) -> None:
    open_explorer(page, address)
    in_table(page, [(layer, neuron) for layer in range(LAYERS) for neuron in range(WIDTH)])
    assert f"n = {study.positions:,}".replace(",", "\u202f") in page.locator("#count").inner_text()
    for quadrant in QUADRANTS:
        label = f"share of {quadrant.replace('_', ' ').replace('-', '−')}"
        shown = [number(text.rstrip("%")) for text in cells(page, label)]
        expected = 100 * shares(study, quadrant)
        assert shown == pytest.approx([expected[neuron] for _, neuron in names(page)], rel=0.01, abs=0.005)
    cell = page.locator(".line-row .figure").first
    assert cell.get_attribute("title") == f"n = {study.positions:,} positions".replace(",", "\u202f")
    assert page.locator(".line-row a").first.get_attribute("href") == f"{LATE}/00/0.html"


def test_a_click_on_a_heading_sorts_and_another_turns_it(page: Page, address: str, study: Study) -> None:
    open_explorer(page, address)
    values = shares(study, "gate-_in+")
    sort(page, "gate-_in+_routed_frequency")
    in_table(page, ordered(-values))
    assert page.locator('[aria-sort="descending"]').inner_text().endswith("↓")
    sort(page, "gate-_in+_routed_frequency")
    in_table(page, ordered(values))
    assert page.url.endswith("#sort=gate-_in+_routed_frequency")
    page.locator('.head [data-sort="neuron"]').click()
    in_table(page, [(layer, neuron) for layer in range(LAYERS) for neuron in range(WIDTH)])
    page.locator('.head [data-sort="neuron"]').click()
    in_table(page, [(layer, neuron) for layer in (1, 0) for neuron in reversed(range(WIDTH))])


def test_a_further_key_sorts_within_the_first(page: Page, address: str, study: Study) -> None:
    open_explorer(page, address)
    sort(page, "class")
    sort(page, "gate+_in+_routed_frequency", modifiers=["Shift"])
    order = ["conditional strengthening", "orthogonal output", "weakening"]
    classes = np.array([order.index(CLASSES[neuron % 3]) for neuron in range(WIDTH)])
    in_table(page, ordered(classes, -shares(study, "gate+_in+")))


@pytest.mark.parametrize("down", ["", "-"])
def test_empty_quadrants_sort_last(page: Page, address: str, study: Study, down: str) -> None:
    open_explorer(page, address, f"#sort={down}gate+_in+_post_largest")
    page.locator("#table").focus()
    page.keyboard.press("End")
    empty = [neuron for neuron in range(WIDTH) if not counts(study, neuron)["gate+_in+"]]
    assert empty == [3]
    assert names(page)[-2:] == [(0, 3), (1, 3)]
    assert cells(page, "largest |post| in gate+ in+")[-2:] == ["–", "–"]


@pytest.mark.parametrize("statistic", ["mean", "std", "largest"])
@pytest.mark.parametrize("activation", ["gate", "in", "act", "post"])
def test_statistics_of_activations_are_those_of_brute_force(
    page: Page, address: str, study: Study, activation: str, statistic: str
) -> None:
    quadrant = "gate-_in+"
    open_explorer(page, address, f"#layers=0&columns={quadrant}_{activation}_{statistic}")
    shown = page.locator(".line-row .figure").all_inner_texts()
    title = page.locator(".line-row .figure").nth(1).get_attribute("title")
    assert title == f"n = {counts(study, 1)[quadrant]} positions"
    for neuron, text in enumerate(shown[:10]):
        sign = study.orientation[neuron]
        raw = oriented_quadrant(quadrant, sign)
        masks = [(text, study.inside(neuron, text, raw)) for text in range(len(study.corpus.texts))]
        values = np.concatenate([study.values(neuron, text)[activation][mask] for text, mask in masks]).astype(np.float64)
        if not len(values):
            assert text == "–"
            continue
        values = values * (sign if activation in ("in", "post") else 1)
        expected = {"mean": values.mean(), "std": values.std(), "largest": np.abs(values).max()}[statistic]
        assert number(text) == pytest.approx(expected, rel=1e-3)


def test_a_row_leads_to_its_page_and_back(page: Page, address: str) -> None:
    open_explorer(page, address, "#sort=-cos_in_out")
    layer, neuron = names(page)[2]
    page.locator(".line-row a").nth(2).click()
    page.wait_for_url(f"**/{LATE}/{layer:02d}/{neuron}.html")
    page.go_back()
    settle(page)
    assert names(page)[2] == (layer, neuron)


def test_neurons_without_a_page_show_and_say_how(page: Page, address: str) -> None:
    open_explorer(page, address, f"#checkpoint={EARLY}")
    assert counted(page) == LAYERS * WIDTH
    assert page.locator("#row-2 a").get_attribute("href") == f"{EARLY}/00/2.html"
    assert page.locator("#row-3 a").count() == 0
    assert "gluscope serve" in page.locator("#table-note").inner_text()
    page.locator("#row-3").click()
    page.locator("#table").press("Enter")
    assert page.locator("#table-note").inner_text().startswith("Neuron 3 of layer 0 has no page here; gluscope serve")


def test_the_manifest_may_name_ranges_of_pages(page: Page, site: Path, tmp_path: Path) -> None:
    for name in ("explorer.html", f"{LATE}/00/columns/summary.js"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((site / name).read_bytes())
    (tmp_path / "static").symlink_to(site / "static")
    entry = {"key": LATE, "name": "late", "layers": [{"layer": 0, "width": WIDTH, "pages": [[2, 4], [9, 10]]}]}
    (tmp_path / MANIFEST).write_text(manifest_text({"study": "synthetic", "checkpoints": [entry]}))
    open_explorer(page, tmp_path.as_uri() + "/", "#columns=class")
    linked = page.locator(".line-row a").all_inner_texts()
    assert linked == ["0 · 2", "0 · 3", "0 · 9"]


def test_columns_can_be_chosen(page: Page, address: str) -> None:
    open_explorer(page, address)
    page.click("#columns summary")
    page.check('#choices input[value="cos_gate_in"]')
    page.uncheck('#choices input[value="example"]')
    settle(page)
    assert "strongest example" not in page.locator(".head").inner_text()
    assert cells(page, "cos(w_gate, w_in)")[:2] == ["+0.250", "+0.250"]
    page.keyboard.press("Escape")
    assert page.locator("#choices").is_hidden()
    page.reload()
    settle(page)
    assert cells(page, "cos(w_gate, w_in)")[:2] == ["+0.250", "+0.250"]


# Filters


def fill(page: Page, field: str, low: str = "", high: str = "") -> None:
    page.select_option("#add", field)
    inputs = page.locator("#cards li").last.locator("input")
    for place, text in enumerate((low, high)):
        if text:
            inputs.nth(place).fill(text)
            inputs.nth(place).press("Enter")
    settle(page)


def test_a_range_keeps_what_is_inside_and_says_how_many(page: Page, address: str, study: Study) -> None:
    open_explorer(page, address)
    fill(page, "gate+_in+_routed_frequency", "20", "26.5")
    values = shares(study, "gate+_in+")
    kept = [neuron for neuron in range(WIDTH) if 0.2 <= values[neuron] <= 0.265]
    assert 0 < len(kept) < WIDTH
    in_table(page, [(layer, neuron) for layer in range(LAYERS) for neuron in kept])
    assert f"{2 * len(kept)} of {2 * WIDTH} neurons" in page.locator("#count").inner_text()
    assert f"n = {2 * len(kept)} neurons" in page.locator("#cards").inner_text()
    assert "where=gate+_in+_routed_frequency:0.2..0.265" in page.url
    fill(page, "layer", "1", "1")
    in_table(page, [(1, neuron) for neuron in kept])
    page.click("#clear")
    settle(page)
    assert counted(page) == LAYERS * WIDTH
    assert page.locator("#cards li").count() == 0


def test_a_bound_that_is_a_value_includes_it(page: Page, address: str, study: Study) -> None:
    value = float(np.float64(math.sin(4)).astype(np.float32))
    open_explorer(page, address, f"#where=cos_in_out:{value}..{value}")
    in_table(page, [(0, 4), (1, 4)])


def test_classes_are_ticked(page: Page, address: str) -> None:
    open_explorer(page, address)
    page.select_option("#add", "class")
    card = page.locator("#cards li")
    assert "n = 16" in card.locator("label", has_text="orthogonal output").inner_text()
    card.locator("label", has_text="orthogonal output").click()
    settle(page)
    in_table(page, [(layer, neuron) for layer in range(LAYERS) for neuron in range(1, WIDTH, 3)])
    card.locator("label", has_text=re.compile("^weakening")).click()
    settle(page)
    assert counted(page) == 32
    page.locator("#cards .remove").click()
    settle(page)
    assert counted(page) == LAYERS * WIDTH


def test_layers_are_chosen_as_on_the_command_line(page: Page, address: str) -> None:
    open_explorer(page, address)
    page.fill("#layers", "1")
    page.press("#layers", "Enter")
    settle(page)
    in_table(page, [(1, neuron) for neuron in range(WIDTH)])
    page.fill("#layers", "0-1")
    page.press("#layers", "Enter")
    settle(page)
    assert counted(page) == 2 * WIDTH
    page.fill("#layers", "7")
    page.press("#layers", "Enter")
    assert "late has no layer 7; it has 0 to 1" in page.locator("#layers-note").inner_text()


def with_token(study: Study, role: str, token: int) -> list[int]:
    """The neurons whose list in the oriented view holds the token."""
    swapped = {"promoted": "suppressed", "suppressed": "promoted", "in_positive": "in_negative", "in_negative": "in_positive"}
    rows = pq.read_table(study.folder / "layer-00.parquet").to_pylist()
    lists = [row[role if row["orientation"] > 0 else swapped.get(role, role)] for row in rows]
    return [neuron for neuron, entries in enumerate(lists) if token in [entry["token"] for entry in entries]]


def add_token(page: Page, role: str, text: str) -> None:
    page.select_option("#token-role", label=role)
    page.fill("#token", text)
    page.click("#token-form button")
    settle(page)


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("promoted", "promoted"),
        ("suppressed", "suppressed"),
        ("read by gate+", "gate_positive"),
        ("read by in−", "in_negative"),
    ],
)
def test_a_token_keeps_the_neurons_whose_list_holds_it(page: Page, address: str, study: Study, role: str, name: str) -> None:
    token = next(token for token in range(306, 320) if with_token(study, name, token) and study.decoder.piece(token).strip())
    open_explorer(page, address)
    add_token(page, role, f'"{study.decoder.piece(token)}"')
    kept = with_token(study, name, token)
    in_table(page, [(layer, neuron) for layer in range(LAYERS) for neuron in kept])
    assert f"“{study.decoder.piece(token)}”" in page.locator("#cards").inner_text()


def test_a_token_without_quotation_marks_means_all_with_its_letters(page: Page, address: str, study: Study) -> None:
    pieces = [study.decoder.piece(token) for token in range(300, 340)]
    word = next(piece.strip() for piece in pieces if piece.strip().isalpha() and len(piece.strip()) > 1)
    size = study.tokenizer.get_vocab_size()
    meant = [token for token in range(size) if visible(study.decoder.piece(token)).strip().lower() == word.lower()]
    open_explorer(page, address)
    add_token(page, "promoted", word.upper())
    kept = sorted({neuron for token in meant for neuron in with_token(study, "promoted", token)})
    in_table(page, [(layer, neuron) for layer in range(LAYERS) for neuron in kept])
    add_token(page, "at any peak", "no such token")
    assert counted(page) == 0
    assert "No token has this text." in page.locator("#cards").inner_text()


def test_a_token_at_peaks_of_a_quadrant(page: Page, address: str, study: Study) -> None:
    found: dict[int, set[int]] = {}
    for neuron in range(WIDTH):
        raw = oriented_quadrant("gate+_in-", study.orientation[neuron])
        inside = [study.inside(neuron, text, raw) for text in range(len(study.corpus.texts))]
        for entry in study._list(neuron, "post", inside):
            token = int(study.corpus.texts[entry["text"]][entry["position"]])
            found.setdefault(token, set()).add(neuron)
    token = next(token for token, at in found.items() if 1 < len(at) < 12 and study.decoder.piece(token).strip().isalpha())
    open_explorer(page, address)
    add_token(page, "at peaks in gate+ in−", f'"{study.decoder.piece(token)}"')
    in_table(page, [(layer, neuron) for layer in range(LAYERS) for neuron in sorted(found[token])])


def test_tokens_are_suggested(page: Page, address: str) -> None:
    open_explorer(page, address)
    page.focus("#token")
    settle(page)
    page.fill("#token", "the")
    options = page.locator("#token-list option").evaluate_all("all => all.map(option => option.value)")
    assert '" the"' in options


def contexts(study: Study, neuron: int) -> list[str]:
    """The texts around the strongest post of each quadrant."""
    examples = pq.read_table(study.folder / "aggregate/examples.parquet", columns=[f"{name}_post" for name in QUADRANTS])
    found = []
    for name in QUADRANTS:
        entries = examples[f"{name}_post"][neuron].as_py()
        if entries:
            tokens, position = study.corpus.texts[entries[0]["text"]].tolist(), entries[0]["position"]
            pieces = [visible(piece).replace("\n", "") for piece in study.decoder.pieces(tokens)]
            found.append("".join(pieces[max(position - TOKENS_BEFORE, 0) : position + TOKENS_AFTER + 1]))
    return found


@pytest.mark.parametrize("text", ["little girl", "LITTLE GIRL", "日本語", "onerror=alert(1)>", "a.*b", "(", "↵"])
def test_a_search_finds_texts_around_peaks(page: Page, address: str, study: Study, text: str) -> None:
    kept = [neuron for neuron in range(WIDTH) if any(text.lower() in shown.lower() for shown in contexts(study, neuron))]
    assert text == "a.*b" or 0 < len(kept) < WIDTH
    open_explorer(page, address)
    page.fill("#text", text)
    page.wait_for_function("text => decodeURIComponent(location.hash).includes('where=text:' + text)", arg=text)
    settle(page)
    in_table(page, [(layer, neuron) for layer in range(LAYERS) for neuron in kept])
    for shown in page.locator(".line-row .snippet").evaluate_all("all => all.map(element => element.title)"):
        assert text.lower() in shown.lower()


# Scatter plot


def brush(page: Page, left: float, top: float, right: float, bottom: float) -> None:
    """Drag over shares of the canvas."""
    page.locator("#plot").scroll_into_view_if_needed()
    box = page.locator("#plot").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + left * box["width"], box["y"] + top * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + right * box["width"], box["y"] + bottom * box["height"], steps=4)
    page.mouse.up()
    settle(page)


def bounds(page: Page) -> dict[str, tuple[float, float]]:
    found = re.findall(r"where=([^:&]+):([^.&]*(?:\.\d+)?)\.\.([^&]+)", page.url)
    return {name: (float(low), float(high)) for name, low, high in found}


def test_brushing_selects_rows_and_inputs_do_the_same(page: Page, address: str, study: Study) -> None:
    open_explorer(page, address)
    brush(page, 0.3, 0.55, 0.9, 0.82)
    found = bounds(page)
    assert set(found) == {"cos_in_out", "gate+_routed_frequency"}
    (x0, x1), (y0, y1) = found["cos_in_out"], found["gate+_routed_frequency"]
    cosines, gates = [math.sin(neuron) for neuron in range(WIDTH)], gate_shares(study)
    kept = [neuron for neuron in range(WIDTH) if x0 <= cosines[neuron] <= x1 and y0 <= gates[neuron] <= y1]
    assert 0 < len(kept) < WIDTH
    rows = [(layer, neuron) for layer in range(LAYERS) for neuron in kept]
    in_table(page, rows)
    assert f"n = {len(rows)} neurons" in page.locator("#plot-note").inner_text()
    values = page.locator("#ranges input").evaluate_all("all => all.map(input => Number(input.value))")
    assert values == pytest.approx([x0, x1, 100 * y0, 100 * y1])
    page.click("#unbrush")
    settle(page)
    assert counted(page) == LAYERS * WIDTH
    assert page.locator("#unbrush").is_hidden()
    for place, value in enumerate((x0, x1, 100 * y0, 100 * y1)):
        page.locator("#ranges input").nth(place).fill(str(value))
        page.locator("#ranges input").nth(place).press("Enter")
    settle(page)
    in_table(page, rows)
    page.locator("#ranges input").first.press("Escape")
    settle(page)
    assert counted(page) == LAYERS * WIDTH


def test_a_finger_brushes_too(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    open_explorer(page, address)
    page.tap("#scatter summary")
    page.locator("#plot").scroll_into_view_if_needed()
    box = page.locator("#plot").bounding_box()
    assert box is not None
    session = context.new_cdp_session(page)

    def touch(kind: str, *at: float) -> None:
        points = [{"x": box["x"] + at[0] * box["width"], "y": box["y"] + at[1] * box["height"]}] if at else []
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.3, 0.5)
    for step in range(1, 6):
        touch("touchMove", 0.3 + step / 10, 0.5 + step / 15)
    touch("touchEnd")
    settle(page)
    assert set(bounds(page)) == {"cos_in_out", "gate+_routed_frequency"}
    assert 0 < counted(page) < LAYERS * WIDTH
    context.close()


def test_the_plot_shows_the_fields_asked_for_with_numbers(page: Page, address: str, study: Study) -> None:
    open_explorer(page, address)
    for kind in CLASSES:
        assert f"{kind} n = 16" in " ".join(page.locator("#key").inner_text().split())
    cosines, gates = [math.sin(neuron) for neuron in range(WIDTH)], gate_shares(study)
    r = f"{np.corrcoef(cosines, gates)[0, 1]:.2f}".replace("-", "−")
    assert f"n = 48 neurons, Pearson's r = {r}" in page.locator("#plot-note").inner_text()
    pictures = {page.locator("#plot").evaluate("canvas => canvas.toDataURL()")}
    page.select_option("#x", "gate-_in-_post_largest")
    page.select_option("#colour", "cos_in_out")
    settle(page)
    ends = page.locator("#key").inner_text().split()
    assert [number(end) for end in ends] == pytest.approx([-1, 1], abs=0.01)
    pictures.add(page.locator("#plot").evaluate("canvas => canvas.toDataURL()"))
    page.select_option("#colour", "none")
    settle(page)
    pictures.add(page.locator("#plot").evaluate("canvas => canvas.toDataURL()"))
    assert len(pictures) == 3
    label = page.locator("#plot").get_attribute("aria-label") or ""
    # One neuron is never in that quadrant of the oriented view.
    assert label.startswith("largest |post| in gate− in− across, share of gate+ up: n = 46 neurons")
    assert "x=gate-_in-_post_largest&colour=none" in page.url


# Address


STATE = (
    "#layers=0-1&view=raw&sort=-gate-_in-_post_largest,class&where=cos_in_out:-0.9..0.9&where=text:the"
    "&x=gate+_in+_gate_mean&colour=none"
)


EVERYTHING = """() => {
  const values = [...document.querySelectorAll("#explorer select, #explorer input")].map(e => [e.value, e.checked]);
  const [text, plot] = [document.querySelector("#explorer").innerText, document.querySelector("#plot").toDataURL()];
  return JSON.stringify([values, text, plot]);
}"""


def everything(page: Page) -> str:
    """All that is seen, once it stays as it is: a busy machine draws the plot some time after the table."""
    shown: str = page.evaluate(EVERYTHING)
    for _ in range(100):
        before = shown
        page.wait_for_timeout(200)
        shown = page.evaluate(EVERYTHING)
        if shown == before:
            return shown
    raise AssertionError("the page keeps changing")


def test_the_address_restores_all_that_is_seen(page: Page, address: str, browser: Browser) -> None:
    open_explorer(page, address, STATE)
    before, url = everything(page), page.url
    assert 0 < counted(page) < LAYERS * WIDTH
    page.reload()
    settle(page)
    assert everything(page) == before
    other = browser.new_page(viewport={"width": 1280, "height": 800})
    other.goto(url)
    settle(other)
    assert everything(other) == before
    other.close()


def test_back_and_forward_lead_through_the_steps(page: Page, address: str) -> None:
    open_explorer(page, address)
    steps = {page.url: everything(page)}
    for act in (
        lambda: sort(page, "gate-_in+_routed_frequency"),
        lambda: fill(page, "cos_in_out", "-0.5"),
        lambda: page.locator('#place input[value="raw"]').check(force=True),
        lambda: page.select_option("#checkpoint", EARLY),
    ):
        act()
        page.evaluate("document.activeElement.blur()")
        settle(page)
        steps[page.url] = everything(page)
    assert len(steps) == len(set(steps.values())) == 5
    places = list(steps)
    for step, place in [(page.go_back, place) for place in places[-2::-1]] + [(page.go_forward, place) for place in places[1:]]:
        # A filter appears before its first bound, so that some places are two steps apart.
        for _ in range(2):
            if page.url != place:
                step()
        assert page.url == place
        page.wait_for_function(f"expected => ({EVERYTHING})() === expected", arg=steps[place])


@pytest.mark.parametrize(
    "state",
    [
        "#sort=nonsense&where=nonsense:1..2&x=class&checkpoint=gone",
        "#where=class:",
        "#%",
        "#where=text:",
        "#where=cos_in_out:a..b",
        "#&&=",
    ],
)
def test_an_address_that_means_nothing_shows_all_neurons(page: Page, address: str, state: str) -> None:
    open_explorer(page, address, state)
    assert counted(page) == LAYERS * WIDTH


# Views, presets, other checkpoints


def test_the_raw_view_swaps_quadrants_of_turned_neurons(page: Page, address: str, study: Study) -> None:
    open_explorer(page, address, "#layers=0")
    plus, minus = "share of gate− in+", "share of gate− in−"
    before = [cells(page, name) for name in (plus, minus)]
    page.locator('#place input[value="raw"]').check(force=True)
    settle(page)
    after = [cells(page, name) for name in (plus, minus)]
    for neuron in range(10):
        turned = study.orientation[neuron] < 0
        assert [column[neuron] for column in after] == [column[neuron] for column in before][:: -1 if turned else 1]
    assert page.locator("#row-1 a").get_attribute("href") == f"{LATE}/00/1.html?view=raw"
    page.locator("#row-1 a").click()
    page.wait_for_selector('#view input[value="raw"]:checked', state="attached")


PRESETS: dict[str, Callable[[Study, Study], tuple[np.ndarray, Any]]] = {
    "balanced in all four quadrants": lambda study, _: (-np.min([shares(study, name) for name in QUADRANTS], axis=0), True),
    "mostly negative gate": lambda study, _: (gate_shares(study), gate_shares(study) <= 0.5),
    "class: weakening": lambda *_: (np.sin(np.arange(WIDTH)), np.arange(WIDTH) % 3 == 0),
    "changes most over training": lambda study, earlier: (-change(study, earlier), True),
}


def change(study: Study, earlier: Study) -> np.ndarray:
    """Total variation distance of the raw shares, zeros included."""
    found = []
    for neuron in range(WIDTH):
        distributions = []
        for one in (study, earlier):
            inside = [sum(int(one.inside(neuron, text, q).sum()) for text in range(len(one.corpus.texts))) for q in QUADRANTS]
            distributions.append(np.array([*inside, one.positions - sum(inside)]) / one.positions)
        found.append(np.abs(distributions[0] - distributions[1]).sum() / 2)
    return np.array(found)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_lead_to_what_they_say(page: Page, address: str, study: Study, earlier: Study, name: str) -> None:
    open_explorer(page, address)
    page.locator("#presets a", has_text=name).click()
    settle(page)
    values, kept = PRESETS[name](study, earlier)
    in_table(page, [row for row in ordered(values) if np.broadcast_to(kept, WIDTH)[row[1]]])
    assert page.locator("#presets [aria-current]").inner_text() == name
    assert page.evaluate("document.activeElement.innerText") == name


def test_the_strongest_post_in_a_quadrant(page: Page, address: str, study: Study) -> None:
    open_explorer(page, address)
    page.locator("#presets a", has_text="strongest post in gate− in−").click()
    settle(page)
    shown = [number(text) for text in cells(page, "largest |post| in gate− in−")]
    assert shown == sorted(shown, reverse=True)
    neuron = names(page)[0][1]
    raw = oriented_quadrant("gate-_in-", study.orientation[neuron])
    values = [study.values(neuron, text)["post"][study.inside(neuron, text, raw)] for text in range(len(study.corpus.texts))]
    assert shown[0] == pytest.approx(np.abs(np.concatenate(values)).max(), rel=1e-3)


def test_change_says_since_when(page: Page, address: str) -> None:
    open_explorer(page, address, f"#checkpoint={EARLY}&sort=-change")
    assert "change of the shares since late" in page.locator("#count").inner_text()
    assert page.locator("#since").input_value() == LATE


# Keys, sizes, safety


def test_keys_move_through_the_table_and_open_a_page(page: Page, address: str) -> None:
    open_explorer(page, address)
    page.locator("#table").focus()
    for key, expected in [("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", 47), ("ArrowDown", 47), ("Home", 0)]:
        page.keyboard.press(key)
        assert page.locator(".line-row.active").get_attribute("id") == f"row-{expected}"
        assert page.locator("#table").get_attribute("aria-activedescendant") == f"row-{expected}"
        expect(page.locator(".line-row.active")).to_be_in_viewport()
    page.keyboard.press("PageDown")
    assert int((page.locator(".line-row.active").get_attribute("id") or "row-0")[4:]) > 5
    page.keyboard.press("End")
    assert page.locator("#table").get_attribute("aria-rowcount") == "49"
    assert page.locator(".line-row.active").get_attribute("aria-rowindex") == "49"
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/{LATE}/01/{WIDTH - 1}.html")


def test_headings_sort_by_key(page: Page, address: str) -> None:
    open_explorer(page, address)
    button = page.locator('.head [data-sort="cos_in_out"]')
    button.focus()
    page.keyboard.press("Enter")
    settle(page)
    assert page.url.endswith("#sort=-cos_in_out")
    assert page.evaluate("document.activeElement.dataset.sort") == "cos_in_out", "the focus stays"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(browser: Browser, address: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    open_explorer(
        page, address, "#sort=-change&where=cos_in_out:-0.9..&where=class:weakening&where=token:promoted:the&where=text:the"
    )
    assert page.locator("#filters").get_attribute("open") is None, "the table is near the top"
    for fold in ("#filters", "#scatter", "#columns"):
        page.click(f"{fold} summary")
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    context.close()


CONTRAST = """() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const channels = (text) => {
    context.fillStyle = text;
    context.clearRect(0, 0, 1, 1);
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    for (let node = element; node; node = node.parentElement) {
      const colour = channels(getComputedStyle(node).backgroundColor);
      if (colour[3] > 200) return colour;
    }
    return [255, 255, 255, 255];
  };
  const poor = [], walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest("option")) continue;
    const [less, more] = [channels(getComputedStyle(element).color), behind(element)].map(light).sort((a, b) => a - b);
    if ((more + 0.05) / (less + 0.05) < 4.5) poor.push([text.slice(0, 30), (more + 0.05) / (less + 0.05)]);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(browser: Browser, address: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 1600}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    open_explorer(
        page, address, "#sort=-change&where=cos_in_out:-0.9..&where=class:weakening&columns=example,tokens:promoted,class"
    )
    page.click("#columns summary")
    assert page.evaluate(CONTRAST) == []
    unnamed = page.locator("#explorer :is(input, select, button)").evaluate_all(
        "all => all.filter(e => !e.innerText?.trim() && !e.getAttribute('aria-label') && !e.labels?.length).map(e => e.id)"
    )
    assert unnamed == []
    context.close()


def test_hostile_texts_are_text(page: Page, address: str) -> None:
    open_explorer(page, address, "#columns=example,tokens:promoted,tokens:gate+_in+&where=text:onerror")
    assert counted(page) > 0
    assert page.locator("main img, main script").count() == 0
    assert any(HOSTILE in title for title in page.locator(".snippet").evaluate_all("all => all.map(e => e.title)"))
    page.fill("#text", HOSTILE)
    page.wait_for_function("text => decodeURIComponent(location.hash).includes('where=text:' + text)", arg=HOSTILE)
    settle(page)
    assert counted(page) > 0
    add_token(page, "promoted", HOSTILE)
    assert page.locator("main img, main script").count() == 0
    assert HOSTILE in page.locator("#cards").inner_text()


def test_the_explorer_works_from_disk(page: Page, site: Path) -> None:
    open_explorer(page, site.as_uri() + "/", "#where=text:the")
    assert 0 < counted(page) < LAYERS * WIDTH
    sort(page, "gate-_in+_routed_frequency")
    assert "sort=-gate-_in+_routed_frequency" in page.url
    add_token(page, "at any peak", "the")
    page.go_back()
    settle(page)
    page.locator(".line-row a").first.click()
    page.wait_for_url(re.compile(rf"^file:.*/{LATE}/0\d/\d+\.html$"))


def test_without_scripts_the_page_says_so(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}explorer.html")
    assert page.locator(".nojs").is_visible()
    assert page.locator("#explorer").is_hidden()
    context.close()


def test_layers_without_columns_are_named(browser: Browser, site: Path, tmp_path: Path) -> None:
    for path in site.rglob("*"):
        if (path.is_file() and path.suffix != ".html") or path.name == "explorer.html":
            target = tmp_path / path.relative_to(site)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (tmp_path / LATE / "01" / "columns" / "summary.js").unlink()
    page = browser.new_page()
    open_explorer(page, tmp_path.as_uri() + "/")
    assert counted(page) == WIDTH
    assert "No shares, cosines and classes of layer 1: build the study's pages again." in page.locator("#progress").inner_text()
    page.close()


# Downloads


def saved(page: Page, button: str) -> str:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_text(encoding="utf-8")


def test_the_selection_can_be_downloaded(page: Page, address: str, study: Study) -> None:
    columns = "gate+_in+_routed_frequency,cos_in_out,gate+_in+_post_mean,atypical,example,tokens:promoted"
    open_explorer(page, address, f"#where=class:weakening&sort=-cos_in_out&columns={columns}")
    rows = list(csv.DictReader(saved(page, "#csv").splitlines(keepends=True)))
    order = [row for row in ordered(-np.sin(np.arange(WIDTH))) if row[1] % 3 == 0]
    assert [(int(row["layer"]), int(row["neuron"])) for row in rows] == order
    lines = [json.loads(line) for line in saved(page, "#jsonl").splitlines()]
    assert len(lines) == len(rows)
    values = shares(study, "gate+_in+")
    for row, line in zip(rows, lines, strict=True):
        neuron = line["neuron"]
        assert row["checkpoint"] == line["checkpoint"] == LATE
        assert (line["view"], line["orientation"], line["routed"]) == ("oriented", study.orientation[neuron], study.positions)
        assert float(row["gate+_in+_routed_frequency"]) == line["gate+_in+_routed_frequency"] == values[neuron]
        assert np.float32(line["cos_in_out"]) == np.float32(math.sin(neuron))
        assert line["atypical"] is (neuron == 1)
        assert row["gate+_in+_post_mean"] == ("" if line["gate+_in+_post_mean"] is None else str(line["gate+_in+_post_mean"]))
        shown = line["example_before"] + line["example_peak"] + line["example_after"]
        assert shown in contexts(study, neuron)
        assert shown == row["example_before"] + row["example_peak"] + row["example_after"]
        assert json.loads(row["tokens_promoted"]) == line["tokens_promoted"]
    turned = next(line for line in lines if line["neuron"] == 3)
    assert turned["gate+_in+_post_mean"] is None, "an empty quadrant has no mean"


# Mixtures of experts, and many neurons


def test_experts_are_named_sorted_and_filtered(page: Page, study: Study, tmp_path: Path) -> None:
    statistics = pq.read_table(study.folder / "aggregate/statistics.parquet").to_pylist()
    for neuron, row in enumerate(statistics):
        row |= {"mlp": "experts", "expert": neuron // 8, "index": neuron % 8}
        if neuron // 8 == 1:
            row |= dict.fromkeys((f"{quadrant}_count" for quadrant in QUADRANTS), 0) | {"zero": 0, "routed": 0}
            row |= {name: None for name in row if name.startswith("gate") and not name.endswith("_count")}
    write_parquet(pa.Table.from_pylist(statistics), tmp_path / "aggregate/statistics.parquet", {})
    (tmp_path / "aggregate/examples.parquet").write_bytes((study.folder / "aggregate/examples.parquet").read_bytes())
    site = tmp_path / "site"
    study.render(site)
    render_site(site, study.site_map())
    weights = study.folder / "layer-00.parquet"
    write_columns(site, LayerTables(LATE, 0, tmp_path / "aggregate", weights), study.corpus, study.decoder)
    open_explorer(page, site.as_uri() + "/", "#sort=gate+_in+_routed_frequency")
    assert "expert" in page.locator("#row-0 .of-place").inner_text()
    assert "positions routed to each" in page.locator("#count").inner_text()
    page.locator("#table").press("End")
    assert [neuron for _, neuron in names(page)[-8:]] == list(range(8, 16))
    assert cells(page, "share of gate+ in+")[-8:] == ["–"] * 8
    assert cells(page, "positions that the neuron sees")[-1] == "0"
    fill(page, "expert", "2", "2")
    assert sorted(neuron for _, neuron in names(page)) == list(range(16, 24))
    assert page.locator("#row-0 .of-place").inner_text().startswith("0 · ")


def test_a_table_beyond_the_height_of_an_element_reaches_every_row(
    page: Page, study: Study, site: Path, tmp_path: Path
) -> None:
    layers = 14_000
    assert layers * WIDTH * 32 > 8_000_000
    # One layer of many neurons: a wide table of equal ones, packed as the small one is.
    statistics = pa.concat_tables([pq.read_table(study.folder / "aggregate/statistics.parquet")] * layers)
    places = pa.array(np.arange(layers * WIDTH, dtype=np.int32))
    statistics = statistics.set_column(statistics.schema.get_field_index("neuron"), "neuron", places)
    statistics = statistics.set_column(statistics.schema.get_field_index("index"), "index", places)
    weights = pa.concat_tables([pq.read_table(study.folder / "layer-00.parquet")] * layers)
    weights = weights.set_column(weights.schema.get_field_index("neuron"), "neuron", places)
    facts, parts = explorer_columns._summary(statistics, weights, tmp_path)
    (tmp_path / LATE / "00" / "columns").mkdir(parents=True)
    target = tmp_path / LATE / "00" / "columns" / "summary.js"
    explorer_columns._write_script(target, f"{LATE}/00/summary", {"width": layers * WIDTH, **facts}, parts)
    (tmp_path / "static").symlink_to(site / "static")
    (tmp_path / "explorer.html").write_bytes((site / "explorer.html").read_bytes())
    entry = {"key": LATE, "name": "late", "layers": [{"layer": 0, "width": layers * WIDTH, "pages": []}]}
    (tmp_path / MANIFEST).write_text(manifest_text({"study": "synthetic", "checkpoints": [entry]}))
    open_explorer(page, tmp_path.as_uri() + "/")
    rows = layers * WIDTH
    assert counted(page) == rows
    assert "strongest example" not in page.locator(".head").inner_text(), "texts of so many neurons are not read unasked"
    assert page.evaluate("document.querySelector('#space').offsetHeight") <= 8_000_000

    # The first row that is whole below the heading; none while the rows of another place are not drawn yet.
    first_row = """() => {
      const edge = document.querySelector(".head").getBoundingClientRect().bottom - 1;
      const rows = [...document.querySelectorAll(".line-row")];
      const row = rows.find(row => row.getBoundingClientRect().top >= edge);
      return row ? Number(row.id.replace("row-", "")) : -1;
    }"""

    page.locator("#table").press("End")
    assert names(page)[-1] == (0, rows - 1)
    page.locator("#table").press("Home")
    assert names(page)[0] == (0, 0)
    page.hover("#table")
    page.evaluate("document.querySelector('#table').scrollTop = 4_000_000")
    page.wait_for_function(f"least => ({first_row})() >= least", arg=rows // 3)
    middle = page.evaluate(first_row)
    assert middle == pytest.approx(rows / 2, rel=0.01)
    for step in range(1, 6):
        page.mouse.wheel(0, 320)
        page.wait_for_function(f"least => ({first_row})() >= least", arg=middle + 10 * step - 1)
        page.wait_for_timeout(250)
        after = page.evaluate(first_row)
        assert after == pytest.approx(middle + 10 * step, abs=1), "a small step moves as far as the reader scrolled"
    page.evaluate("document.querySelector('#table').scrollTop = 1e9")
    page.wait_for_selector(f"#row-{rows - 1}")
    assert names(page)[-1] == (0, rows - 1)
