"""Pictures of the demo's pages, light and dark, on a desk and on a phone: for the README and for looking over a change.

Run by `make screenshots`, or with a folder as argument. Writes `<page>-<width>x<height>-<scheme>.png`.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page

from gluscope_assets_tests.support.browsing import built_site, chromium, neuron_pages, served

SCREENS = ((1280, 800), (390, 844))
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
NEURON = "03/284.html"
"""A neuron of the README, at the last checkpoint; another one where it has no page."""


def shown_pages(site: Path) -> dict[str, str]:
    """Addresses in the site by the name of their pictures."""
    pages = neuron_pages(site)
    neuron = next((page for page in pages if page.endswith(NEURON)), pages[0])
    layer = f"{neuron.rpartition('/')[0]}/index.html"
    return {"neuron": neuron, "layer": layer, "overview": "index.html", "explorer": "explorer.html"}


def take(browser: Browser, address: str, pages: Mapping[str, str], folder: Path) -> list[Path]:
    """One picture of the first screen of each page, on each screen, in each scheme."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    for width, height in SCREENS:
        for scheme in SCHEMES:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            for name, path in pages.items():
                page = context.new_page()
                page.goto(address + path)
                settle(page)
                taken.append(folder / f"{name}-{width}x{height}-{scheme}.png")
                page.screenshot(path=taken[-1], animations="disabled")
                page.close()
            context.close()
    return taken


def settle(page: Page) -> None:
    """Wait until all data are there and shown."""
    page.wait_for_load_state("networkidle")
    page.wait_for_selector('html:not(:has([aria-busy="true"]))', state="attached")


def main() -> None:
    """Take all pictures and name them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/screenshots"), help="where pictures go")
    parser.add_argument("--site", type=Path, help="a built site; the demo's if left out")
    options = parser.parse_args()
    site = built_site(options.site)
    with served(site) as address, chromium() as browser:
        for path in take(browser, address, shown_pages(site), options.folder):
            print(path)


if __name__ == "__main__":
    main()
