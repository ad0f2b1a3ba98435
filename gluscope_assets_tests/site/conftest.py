"""The synthetic study as a built and served site, a browser, and a page that must end without trouble."""

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from gluscope_assets_tests.support.synthetic import Study

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; .ci/run installs it")

LATE = "late-1111111"

# As long as everything else waits: five seconds are little where all tests run at once.
expect.set_options(timeout=30_000)


def number(text: str) -> float:
    return float(text.replace("−", "-").replace("\u202f", "").replace(",", "").replace("+", ""))


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


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """A tab for the tests of a module, because opening one costs more than most tests; and what went wrong in it."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: (troubles.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: None if _is_local(request.url) else troubles.append(f"request {request.url}"))
    yield page, troubles
    page.close()


@pytest.fixture
def page(tab: tuple[Page, list[str]]) -> Iterator[Page]:
    """A page that must end without a console message of its own, a dialog, or a request that leaves the site."""
    page, troubles = tab
    yield page
    # As a new tab: nothing kept, nothing open.
    page.evaluate("() => { try { sessionStorage.clear(); localStorage.clear(); } catch { /* not in this place */ } }")
    page.emulate_media(media="null")
    page.goto("about:blank")
    found = troubles[:]
    troubles.clear()
    assert found == []


@contextmanager
def requested(page: Page) -> Iterator[list[str]]:
    """The addresses that the page asks for."""
    requests: list[str] = []

    def note(request: Request) -> None:
        requests.append(request.url)

    page.on("request", note)
    yield requests
    page.remove_listener("request", note)


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "file:///", "data:", "blob:"))
