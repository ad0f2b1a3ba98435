"""Pages, explorer and overview of a real pretrained model on real text, against its tables."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from playwright.sync_api import Page

from gluscope_assets.core.pages.formats import format_count, format_share, signed
from gluscope_assets.core.paths import HOME_VARIABLE, StudyFolder
from gluscope_assets.core.quadrants import QUADRANTS, oriented_quadrant
from gluscope_assets.core.tables.orientation import scan_neurons
from gluscope_assets.study.study import STUDIES_VARIABLE
from gluscope_assets_tests.core.collect.test_oracle import DATA
from gluscope_assets_tests.site.conftest import needs_chromium
from gluscope_assets_tests.site.tour import take

LAYERS, WIDTH, PAGES = 5, 172, 4

pytestmark = [
    needs_chromium,
    pytest.mark.skipif(not DATA.exists(), reason=f"the real model and its texts are not at {DATA}"),
]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """The study of 40 stories, built, with pages of a few neurons of each layer."""
    folder = tmp_path_factory.mktemp("real")
    study = {
        "name": "stories",
        "title": "A model of stories",
        "model": {
            "name": "stories260K",
            "layers": LAYERS,
            "dtype": "float32",
            "checkpoints": [{"name": "final", "path": str(DATA / "stories260K")}],
        },
        "corpus": {"source": "jsonl", "path": str(DATA / "stories.jsonl"), "max_texts": 40},
        "site": {"pages": [{"checkpoints": "last", "neurons": PAGES}]},
    }
    (folder / "stories.yaml").write_text(yaml.safe_dump(study))
    # In a process of its own: the browser's event loop runs in this one.
    command = [str(Path(sys.executable).with_name("gluscope")), "build", "--study", str(folder / "stories.yaml")]
    environment = {**os.environ, HOME_VARIABLE: str(folder / "home"), STUDIES_VARIABLE: ""}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return StudyFolder(folder / "home" / "stories")


@pytest.fixture(scope="module")
def checkpoint(real: StudyFolder) -> str:
    (folder,) = (real.root / "aggregates").iterdir()
    return folder.name


@pytest.fixture(scope="module")
def neurons(real: StudyFolder, checkpoint: str) -> pl.DataFrame:
    """All neurons in the oriented view."""
    aggregates = [real.aggregate(checkpoint, layer) for layer in range(LAYERS)]
    return scan_neurons(aggregates, [real.weights(checkpoint, layer) for layer in range(LAYERS)]).collect()


@pytest.mark.parametrize("layer", [0, 4])
def test_a_page_shows_what_the_tables_hold(
    page: Page, real: StudyFolder, checkpoint: str, neurons: pl.DataFrame, layer: int
) -> None:
    examples = pl.read_parquet(real.aggregate(checkpoint, layer) / "examples.parquet")
    for neuron in range(PAGES):
        page.goto((real.site / checkpoint / f"{layer:02d}" / f"{neuron}.html").as_uri())
        page.wait_for_selector("#q0 .example .t.peak, #q0 .empty")
        row = neurons.row(by_predicate=(pl.col("layer") == layer) & (pl.col("neuron") == neuron), named=True)
        for quadrant in QUADRANTS:
            tile = page.locator(f'.tile[data-quadrant="{quadrant}"]')
            assert tile.locator("strong").inner_text() == format_share(row[f"{quadrant}_frequency"])
            assert tile.locator(".n").inner_text() == f"n = {format_count(row[f'{quadrant}_count'])}"
            raw = oriented_quadrant(quadrant, row["orientation"])
            best = examples.row(neuron, named=True)[f"{raw}_post"]
            if best:
                assert tile.locator(".strongest").inner_text() == f"post {signed(row['orientation'] * best[0]['post'])}"
        page.locator('input[name="rank"][value="random"]').check(force=True)
        page.wait_for_selector("#q0:not([aria-busy])")
        assert page.locator(".picture .cells path").count() > 0
        assert not page.locator("main").inner_text().count("NaN")


def test_the_explorer_has_all_neurons_whether_or_not_they_have_a_page(page: Page, real: StudyFolder) -> None:
    page.goto((real.site / "explorer.html").as_uri())
    page.wait_for_selector("#row-1")
    assert f"{format_count(LAYERS * WIDTH)} of {format_count(LAYERS * WIDTH)} neurons" in page.locator("main").inner_text()


def test_every_feature_works_and_shows_what_the_tables_hold(page: Page, real: StudyFolder) -> None:
    take(page, real, [(0, 0), (LAYERS - 1, 1)])


def test_the_overview_draws_every_layer(page: Page, real: StudyFolder) -> None:
    page.goto((real.site / "index.html").as_uri())
    assert page.locator(".scatter").count() >= LAYERS
    assert "nan" not in page.locator("main").inner_text().lower().split()
