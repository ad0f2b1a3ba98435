"""The picker, and links along the manifest, in headless Chromium: ranges of pages, several MLPs, experts."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from gluscope_assets.core.options import PageSelection
from gluscope_assets.core.pages.site_map import MlpBlock, SiteMap
from gluscope_assets.core.serve.on_demand import OnDemand
from gluscope_assets.core.serve.server import open_server
from gluscope_assets.core.site.site import render_site
from gluscope_assets_tests.site.conftest import LATE, needs_chromium
from gluscope_assets_tests.support.layer_sources import sources_of, write_inputs
from gluscope_assets_tests.support.synthetic import Study

pytestmark = needs_chromium

EARLY = "early-0000000"
BLOCKS = (MlpBlock("mlp.experts", 3, 0, 9), MlpBlock("mlp.shared_expert", None, 9, 3))


@contextmanager
def served(site: Path, on_demand: OnDemand | None = None) -> Iterator[str]:
    with open_server(site, 0, on_demand) as server:
        yield server.address


def build(study: Study, site: Path, site_map: SiteMap) -> Path:
    for key, _ in site_map.checkpoints:
        for layer, _ in site_map.layers:
            study.render(site, key, layer, site_map=site_map)
    render_site(site, site_map)
    return site


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Layer 0 and 1 have experts and a shared one, layer 2 has one MLP; some of their neurons have pages."""
    study = Study(tmp_path_factory.mktemp("study"), width=12, repeats=1)
    site_map = replace(
        study.site_map(),
        layers=((0, 12), (1, 12), (2, 12)),
        mlp_blocks=((0, BLOCKS), (1, BLOCKS[:1])),
        pages=(
            PageSelection(checkpoints="last", layers=(0,), neurons="all"),
            PageSelection(checkpoints="last", layers=(1,), neurons=(0, 4, 5, 8)),
            PageSelection(checkpoints="last", layers=(2,), neurons=(2, 3, 4, 9)),
            PageSelection(checkpoints=("early",), layers=(0, 2), neurons=(7,)),
        ),
    )
    with served(build(study, tmp_path_factory.mktemp("site"), site_map)) as address:
        yield address


def says(page: Page, text: str) -> None:
    expect(page.locator("#pick-note")).to_have_text(text)


def is_offered(page: Page, *names: str) -> None:
    for name in ("mlp", "expert"):
        expect(page.locator(f"#pick-{name}")).to_be_visible(visible=name in names)


def test_an_experts_neuron_is_picked_by_layer_expert_and_index(page: Page, address: str) -> None:
    page.goto(f"{address}index.html")
    is_offered(page, "mlp", "expert")
    says(page, "late has pages for the neurons 0 to 2 of expert 0 of mlp.experts of layer 0.")
    page.fill("#pick-expert", "2")
    says(page, "late has pages for the neurons 0 to 2 of expert 2 of mlp.experts of layer 0.")
    page.fill("#pick-neuron", "1")
    page.click("#picker button")
    page.wait_for_url(f"**/{LATE}/00/7.html")


def test_a_shared_expert_is_an_mlp_of_its_own(page: Page, address: str) -> None:
    page.goto(f"{address}index.html")
    page.select_option("#pick-mlp", label="mlp.shared_expert")
    is_offered(page, "mlp")
    says(page, "late has pages for the neurons 0 to 2 of mlp.shared_expert of layer 0.")
    page.fill("#pick-neuron", "3")
    page.click("#picker button")
    says(page, "Neuron 3 of mlp.shared_expert has no page at late.")
    page.fill("#pick-neuron", "2")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/{LATE}/00/11.html")


def test_fields_follow_the_layer(page: Page, address: str) -> None:
    page.goto(f"{address}index.html")
    page.fill("#pick-expert", "1")
    page.select_option("#pick-layer", "1")
    is_offered(page, "expert")
    says(page, "late has pages for the neurons 1 to 2 of expert 1 of layer 1.")
    page.fill("#pick-expert", "0")
    says(page, "late has pages for neuron 0 of expert 0 of layer 1.")
    page.click("#picker button")
    page.wait_for_url(f"**/{LATE}/01/0.html")
    page.goto(f"{address}index.html")
    page.select_option("#pick-layer", "2")
    is_offered(page)
    says(page, "late has pages for the neurons 2 to 4, 9 of layer 2.")
    page.fill("#pick-neuron", "5")
    page.click("#picker button")
    says(page, "Neuron 5 has no page at late.")
    page.select_option("#pick-checkpoint", label="early")
    says(page, "early has pages for neuron 7 of layer 2.")
    page.select_option("#pick-layer", "0")
    is_offered(page, "mlp", "expert")
    says(page, "early has pages for no neuron of expert 0 of mlp.experts of layer 0.")


def test_an_expert_that_is_not_there_is_not_opened(page: Page, address: str) -> None:
    page.goto(f"{address}index.html")
    page.fill("#pick-expert", "3")
    page.click("#picker button")
    assert page.url == f"{address}index.html"
    assert page.locator("#pick-expert").evaluate("field => field.validity.rangeOverflow")


def test_neighbours_lead_through_all_layers_with_pages(page: Page, address: str) -> None:
    page.goto(f"{address}{LATE}/00/11.html")
    for name in ("01/0", "01/4", "01/5", "01/8", "02/2", "02/3", "02/4", "02/9"):
        page.keyboard.press("ArrowRight")
        page.wait_for_url(f"**/{LATE}/{name}.html")
    assert page.locator("#next").is_hidden()
    page.goto(f"{address}{LATE}/02/2.html")
    assert page.locator("#previous").inner_text().split() == ["←", "layer", "1,", "8"]
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**/{LATE}/01/8.html")


def test_a_random_page_is_another_that_is_there(page: Page, address: str) -> None:
    page.goto(f"{address}{EARLY}/00/7.html")
    assert page.locator("#random").evaluate("link => link.pathname") == f"/{EARLY}/02/7.html"
    page.goto(f"{address}index.html")
    found = set()
    for _ in range(200):
        page.locator("#random").evaluate("link => link.addEventListener('click', (event) => event.preventDefault())")
        page.locator("#random").evaluate("link => link.click()")
        found.add(page.locator("#random").evaluate("link => link.pathname"))
    there = {f"00/{neuron}" for neuron in range(12)} | {f"01/{neuron}" for neuron in (0, 4, 5, 8)}
    there |= {f"02/{neuron}" for neuron in (2, 3, 4, 9)}
    assert found <= {f"/{LATE}/{name}.html" for name in there}
    assert len(found) > 10


def test_a_site_without_pages_offers_none(page: Page, tmp_path: Path) -> None:
    study = Study(tmp_path / "study", repeats=1)
    render_site(tmp_path / "site", study.site_map())
    page.goto((tmp_path / "site" / "index.html").as_uri())
    assert page.locator("#picker").is_hidden()
    assert page.locator("#random").is_hidden()


def test_a_neuron_that_nobody_rendered_opens_where_it_is_served(page: Page, tmp_path: Path) -> None:
    study = Study(tmp_path / "study", width=8, repeats=1)
    write_inputs(study)
    site_map = replace(study.site_map(), pages=(PageSelection(checkpoints="last", layers=(0,), neurons=(3,)),))
    build(study, tmp_path / "site", site_map)
    sources = sources_of(study, PageSelection(checkpoints="all", neurons="all"))
    with closing(OnDemand(tmp_path / "site", sources)) as on_demand, served(tmp_path / "site", on_demand) as address:
        page.goto(f"{address}index.html")
        page.select_option("#pick-layer", "1")
        says(page, "late has pages for the neurons 0 to 7 of layer 1.")
        page.fill("#pick-neuron", "6")
        page.click("#picker button")
        page.wait_for_url(f"**/{LATE}/01/6.html")
        page.wait_for_selector(".t.peak")
        page.locator('input[name="rank"][value="gate"]').check(force=True)
        expect(page.locator("section.list .example").first).to_be_visible()
        page.keyboard.press("j")
        page.wait_for_url(f"**/{LATE}/01/7.html")
        page.goto(f"{address}{LATE}/01/")
        assert page.locator("table.neurons tbody tr").count() == 8
