"""A built site, served, and a headless Chromium: for what is measured and pictured by hand."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.pages.site_map import read_manifest
from gluscope_assets.core.paths import StudyFolder, default_home
from gluscope_assets.core.serve.server import open_server
from gluscope_assets_tests.site.conftest import CHROMIUM


def built_site(folder: Path | None) -> Path:
    """`folder`, or the demo's site. Exits with a sentence if no site with a neuron's page is there."""
    site = folder or StudyFolder(default_home() / "demo").site
    try:
        if neuron_pages(site):
            return site
    except InputError:
        pass
    sys.exit(f"{site} holds no site with neuron pages; run make demo first, or name a folder that does.")


def neuron_pages(site: Path) -> list[str]:
    """The neuron pages of the last checkpoint that has any, relative to the site, in the order of layers and neurons."""
    pages: list[str] = []
    for checkpoint in read_manifest(site)["checkpoints"]:
        found = [
            f"{checkpoint['key']}/{layer['layer']:02d}/{neuron}.html"
            for layer in checkpoint["layers"]
            for first, end in layer["pages"]
            for neuron in range(first, end)
        ]
        pages = found or pages
    return pages


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address of the site on a server that compresses what it sends, as hosts do."""
    with open_server(site, 0) as server:
        yield server.address


@contextmanager
def chromium() -> Iterator[Browser]:
    """Headless Chromium. Exits with a sentence if there is none."""
    if CHROMIUM is None:
        sys.exit("There is no Chromium on this machine; install it.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
