"""A tour of the built site of a real study: every feature of pages, explorer and overview used and compared with the tables.

Run by `python -m gluscope_assets_tests.site.tour STUDY_FOLDER` over any built study, such as `.gluscope/demo`. That each
feature does what it says in every case is tested on the synthetic site; here is what no made-up study can show.
"""

import csv
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from playwright.sync_api import Page, expect, sync_playwright

from gluscope_assets.core.pages.site_map import read_manifest
from gluscope_assets.core.paths import StudyFolder
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, column, oriented_quadrant
from gluscope_assets.core.tables.orientation import scan_neurons
from gluscope_assets_tests.site import test_explorer as explorer
from gluscope_assets_tests.site.conftest import CHROMIUM, number
from gluscope_assets_tests.site.test_pages import choose, places, section, settle
from gluscope_assets_tests.site.test_picker import served


class Tour:
    """The last checkpoint of a study whose site is served at an address."""

    def __init__(self, page: Page, folder: StudyFolder, address: str) -> None:
        self.page, self.folder, self.address = page, folder, address
        self.checkpoints: list[dict[str, Any]] = read_manifest(folder.site)["checkpoints"]
        self.key: str = self.checkpoints[-1]["key"]
        self.layers: list[int] = [entry["layer"] for entry in self.checkpoints[-1]["layers"]]
        aggregates = [folder.aggregate(self.key, layer) for layer in self.layers]
        tables = scan_neurons(aggregates, [folder.weights(self.key, layer) for layer in self.layers])
        self.neurons: pl.DataFrame = tables.sort("layer", "neuron").collect()
        """All neurons in the oriented view."""

    def neuron(self, layer: int, neuron: int) -> None:
        """Everything on the page of one neuron."""
        page, row = self.page, self.neurons.row(by_predicate=self._is(layer, neuron), named=True)
        page.goto(f"{self.address}{self.key}/{layer:02d}/{neuron}.html")
        settle(page)
        self._first_screen(row)
        self._lists(layer, row)
        self._sampled()
        self._layouts_and_colours()
        self._one_example()
        self._links()
        if row["orientation"] < 0:
            self._views()
        self._taken_away(row)
        self._other_pages()

    def _is(self, layer: int, neuron: int) -> pl.Expr:
        return (pl.col("layer") == layer) & (pl.col("neuron") == neuron)

    def _first_screen(self, row: dict[str, Any]) -> None:
        page = self.page
        assert page.locator("h1").inner_text() == f"Layer {row['layer']} · neuron {row['neuron']}"
        assert page.locator(".picture .cells path").count()
        assert page.locator(".weights .class").inner_text().startswith(row["class"])
        assert page.locator(".weights [data-tokens] li").count() >= 6
        shown = [number(cell) for cell in page.locator(".cosines td:last-child").all_inner_texts()]
        np.testing.assert_allclose(shown, [row[name] for name in ("cos_gate_in", "cos_gate_out", "cos_in_out")], atol=6e-4)
        for quadrant in QUADRANTS:
            head = section(page, quadrant).locator("header")
            assert number(head.locator(".n").inner_text().removeprefix("n = ")) == row[f"{quadrant}_count"]
        page.locator("details.how summary").click()
        assert page.locator("details.how img").is_visible()
        page.locator("details.how summary").click()

    def _lists(self, layer: int, row: dict[str, Any]) -> None:
        table = pl.read_parquet(self.folder.aggregate(self.key, layer) / "examples.parquet")
        examples = table.row(by_predicate=pl.col("neuron") == row["neuron"], named=True)
        for ranked in ACTIVATIONS:
            choose(self.page, "rank", ranked)
            for quadrant in QUADRANTS:
                # Where gate is positive act orders as gate does.
                kept = ranked if (quadrant, ranked) in LISTS else "gate"
                expected = examples[column(oriented_quadrant(quadrant, row["orientation"]), kept)][:16]
                found = places(section(self.page, quadrant).locator(".example"))
                assert found == [(one["text"], one["position"]) for one in expected], (quadrant, ranked)

    def _sampled(self) -> None:
        for ranked in ("random", "quantile"):
            choose(self.page, "rank", ranked)
            rows = self.page.locator("section[data-quadrant] .example")
            assert rows.count()
            rows.first.locator(".t.peak").focus()
            values = self._tip()
            np.testing.assert_allclose(values["post"], values["act"] * values["in"], rtol=5e-3, atol=1e-6)

    def _tip(self) -> dict[str, float]:
        tip = self.page.locator("#tip")
        assert tip.is_visible()
        return {name: number(tip.locator(f'[data-activation="{name}"]').inner_text()) for name in ACTIVATIONS}

    def _layouts_and_colours(self) -> None:
        page, tokens = self.page, []
        choose(page, "rank", "post")
        for layout in ("snippet", "full", "lines"):
            choose(page, "layout", layout)
            tokens.append(page.locator(".example .t:visible").count())
        assert tokens[0] <= tokens[1]
        legends = set()
        for colour in (*ACTIVATIONS, "own"):
            choose(page, "colour", colour)
            legends.add(page.locator("#legend").inner_text())
        # The own colour of a list by post is that of post.
        assert len(legends) >= 4

    def _one_example(self) -> None:
        """Its values by pointer and as a table, and what is folded under it."""
        page, row = self.page, self.page.locator(".example:visible").first
        row.locator(".t.peak").hover()
        values = self._tip()
        page.mouse.move(5, 5)
        assert page.locator("#tip").is_hidden()
        row.locator(".more").click()
        row.get_by_role("button", name="Values as a table").click()
        table = row.get_by_role("table", name="Values of each token of the window")
        assert table.locator("tbody tr").count() == row.locator(".line .t").count()
        cells = table.locator("tr.peak td, .peak td").all_inner_texts()[-4:]
        np.testing.assert_allclose([number(cell) for cell in cells], list(values.values()), rtol=1e-3)
        row.get_by_role("button", name="Values as a table").click()
        row.locator(".more").click()
        for button in page.locator(".alike:visible").all()[:1]:
            before = page.locator(".example:visible").count()
            button.click()
            assert page.locator(".example:visible").count() == before + int(re.findall(r"\d+", button.inner_text())[0])
            button.click()

    def _links(self) -> None:
        page = self.page
        row = page.locator(".example:visible").nth(1)
        row.locator(".rank").click()
        page.wait_for_url(f"**/*.html*#{row.get_attribute('id')}")
        page.wait_for_selector(".example.named")
        for link in page.locator(".example:visible .also").all()[:1]:
            link.click()
            expect(page.locator(".example.named")).to_have_count(1)

    def _views(self) -> None:
        page, posts = self.page, {}
        for view in ("oriented", "raw", "oriented"):
            choose(page, "view", view)
            values = section(page, "gate+_in+").locator(".example .value").all_text_contents()
            swapped = section(page, "gate+_in-").locator(".example .value").all_text_contents()
            posts[view] = [number(text) for text in values], [number(text) for text in swapped]
        assert posts["raw"] == ([-post for post in posts["oriented"][1]], [-post for post in posts["oriented"][0]])

    def _taken_away(self, row: dict[str, Any]) -> None:
        page = self.page
        with page.expect_download() as download:
            page.click("#download")
        content = json.loads(Path(download.value.path()).read_text())
        assert content["checkpoint"] == self.key
        for quadrant in QUADRANTS:
            assert content["statistics"][quadrant]["count"] == row[f"{quadrant}_count"]
        assert self.key in page.locator("#bibtex").inner_text()
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.click("#copy-citation")
        expect(page.locator("#copy-citation")).to_have_text("Copied")
        example = page.locator(".example:visible").first
        example.locator(".more").click()
        copy = example.locator(".tools button").first
        copy.click()
        expect(copy).to_have_text("Copied")
        assert "«" in page.evaluate("navigator.clipboard.readText()")

    def _other_pages(self) -> None:
        page = self.page
        if len(self.checkpoints) > 1:
            page.wait_for_selector("#training li")
            assert page.locator("#training li").count() == len(self.checkpoints)
        here = page.url
        page.locator("#next").click()
        page.wait_for_url(lambda url: url.partition("#")[0] != here.partition("#")[0])
        settle(page)
        page.locator("body").press("ArrowLeft")
        page.wait_for_url(f"{here.partition('#')[0].partition('?')[0]}*")
        settle(page)

    def explorer(self) -> None:
        """Sort, filter by statistic, class, token and text, brush, download, restore from the address, open a page."""
        page, neurons = self.page, self.neurons
        explorer.open_explorer(page, self.address)
        assert explorer.counted(page) == len(neurons)

        page.locator("#presets a", has_text="strongest post in gate− in−").click()
        explorer.settle(page)
        value = pl.col("gate-_in-_post_largest")
        ordered = neurons.sort(value, "layer", "neuron", descending=[True, False, False], nulls_last=True)
        shown = explorer.names(page)
        assert shown == ordered.select("layer", "neuron").head(len(shown)).rows()

        explorer.fill(page, "gate+_in+_routed_frequency", "20")
        share = neurons["gate+_in+_routed_frequency"].cast(pl.Float32)
        assert explorer.counted(page) == (share >= np.float32(0.2)).sum()
        page.click("#clear")
        explorer.settle(page)

        kind, size = neurons["class"].value_counts(sort=True).row(-1)
        page.select_option("#add", "class")
        page.locator("#cards li label", has_text=re.compile(f"^{re.escape(kind)}")).click()
        explorer.settle(page)
        assert explorer.counted(page) == size
        layer, neuron = explorer.names(page)[0]
        page.click("#clear")
        explorer.settle(page)
        self._search(layer, neuron)

        explorer.brush(page, 0.3, 0.3, 0.7, 0.7)
        inside = explorer.counted(page)
        assert 0 <= inside < len(neurons)
        assert set(explorer.bounds(page)) == {"cos_in_out", "gate+_routed_frequency"}
        rows = list(csv.DictReader(explorer.saved(page, "#csv").splitlines(keepends=True)))
        assert len(rows) == inside
        again = page.url
        page.goto("about:blank")
        page.goto(again)
        explorer.settle(page)
        assert explorer.counted(page) == inside
        page.click("#clear")
        explorer.settle(page)
        page.locator(".line-row a").first.click()
        settle(page)
        assert page.locator("h1").inner_text().startswith("Layer ")

    def _search(self, layer: int, neuron: int) -> None:
        """By a token that a neuron promotes, and by a text around its strongest post."""
        page = self.page
        one = f"where=layer:{layer}..{layer}&where=neuron:{neuron}..{neuron}"
        explorer.open_explorer(page, self.address, f"#{one}&columns=example")
        page.wait_for_selector(".line-row .snippet")
        text = page.locator(".line-row .snippet").first.get_attribute("title") or ""
        words = re.findall(r"\w{4,}", text) or [text[:4]]
        explorer.open_explorer(page, self.address)
        page.fill("#text", words[0])
        page.wait_for_function("text => decodeURIComponent(location.hash).includes('where=text:' + text)", arg=words[0])
        explorer.settle(page)
        assert explorer.counted(page)
        for title in page.locator(".line-row .snippet").evaluate_all("all => all.map(element => element.title)"):
            assert words[0].lower() in title.lower()
        page.click("#clear")
        explorer.settle(page)
        row = self.neurons.row(by_predicate=self._is(layer, neuron), named=True)
        token = row["promoted"][0]["token"]
        expected = self.neurons["promoted"].list.eval(pl.element().struct.field("token") == token).list.any().sum()
        explorer.add_token(page, "promoted", f"#{token}")
        assert explorer.counted(page) == expected
        page.click("#clear")
        explorer.settle(page)

    def overview(self) -> None:
        """Every figure with its table, no number that is none, and ways to neurons."""
        page = self.page
        page.goto(f"{self.address}index.html")
        figures = page.locator("main figure")
        assert figures.count() >= 3
        for figure in figures.all():
            details = figure.locator("xpath=following-sibling::*[1]")
            details.locator("summary").click()
            assert details.locator("table tbody tr").count() >= len(self.layers) or details.locator("table").count()
        assert "nan" not in page.locator("main").inner_text().lower().split()
        assert page.locator(".measured").count() == 1
        page.locator("#picker button[type=submit]").click()
        page.wait_for_url(re.compile(r"/\d+\.html"))
        settle(page)


def take(page: Page, folder: StudyFolder, chosen: Sequence[tuple[int, int]]) -> None:
    """The tour, over the pages of the neurons `chosen`, (layer, neuron)."""
    with served(folder.site) as address:
        tour = Tour(page, folder, address)
        for layer, neuron in chosen:
            tour.neuron(layer, neuron)
        tour.explorer()
        tour.overview()


def main() -> None:
    """The tour of the study in the folder given, over one page of each layer."""
    folder = StudyFolder(Path(sys.argv[1]))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        layers = read_manifest(folder.site)["checkpoints"][-1]["layers"]
        take(browser.new_page(viewport={"width": 1280, "height": 800}), folder, [(entry["layer"], 1) for entry in layers])
        browser.close()
    print("Everything is as the tables say.")


if __name__ == "__main__":
    main()
