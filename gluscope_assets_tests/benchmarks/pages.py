"""What a neuron's page costs a reader: time until it shows something and until it is of use, bytes, files.

Run by `python -m gluscope_assets_tests.benchmarks.pages [SITE]`. It serves the demo's site, compressed as hosts do, and opens
neuron pages in headless Chromium on a processor slowed down four times, each time with nothing in its cache. It prints
Markdown tables and fails if a limit is missed.
"""

import argparse
import gzip
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from gluscope_assets_tests.support.browsing import built_site, chromium, neuron_pages, served

SLOWDOWN = 4
SETTLED_MILLISECONDS = 1500
"""After which the browser is done with the parts of its own window, which it loads along with the first page."""
FIRST_PAINT_MILLISECONDS, USABLE_MILLISECONDS = 300, 1000
BYTES_BEFORE, BYTES_IN_ALL, FILES = 60_000, 120_000, 2
PAPER_FILES, PAPER_MEGABYTES = 225, "13–18"
"""Of one neuron in the paper's system, whose pages embed a plot for each example."""

COMPLETE = "the page is complete"
WATCH = """
const told = {};
const tell = (name) => { told[name] ??= performance.now(); };
new PerformanceObserver((list) => {
    for (const { startTime } of list.getEntries()) told.shown = startTime;
}).observe({ type: "largest-contentful-paint", buffered: true });
new MutationObserver(() => {
    if (!("ready" in document.documentElement.dataset)) return;
    if (document.querySelector("#q0:not([aria-busy])")) tell("usable");
    if ("complete" in told || document.querySelector("[aria-busy]")) return;
    tell("complete");
    requestAnimationFrame(() => setTimeout(() => console.debug(COMPLETE)));
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-ready", "aria-busy"] });
window.told = () => ({ ...told, painted: performance.getEntriesByName("first-contentful-paint")[0].startTime });
""".replace("COMPLETE", json.dumps(COMPLETE))
"""Notes when the page is ready with its first section built, and when all sections are; says so once that is painted."""

WORK = {"ScriptDuration": "scripts", "LayoutDuration": "layout", "RecalcStyleDuration": "style", "TaskDuration": "all tasks"}


@dataclass(frozen=True)
class Load:
    """One page opened once."""

    page: str
    times: dict[str, float]
    """Milliseconds since navigation: painted, shown (the largest part of the first screen is painted), usable, complete."""
    work: dict[str, float]
    """Milliseconds of the page's main thread until it is complete, by kind."""
    before: dict[str, int]
    """Bytes transferred for each file before the first interaction, headers included."""
    in_all: dict[str, int]
    """The same after another ranking was chosen."""

    def own_files(self) -> list[str]:
        """The files that belong to this neuron alone."""
        return [
            name for name in self.in_all if name.removesuffix(".js") == self.page.removesuffix(".html") or name == self.page
        ]


def load(browser: Browser, address: str, page_name: str) -> Load:
    """Open a page in a fresh browser context, wait, and choose another ranking."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.add_init_script(WATCH)
    session = context.new_cdp_session(page)
    names: dict[str, str] = {}
    sizes: dict[str, int] = {}

    def requested(event: dict[str, Any]) -> None:
        names[event["requestId"]] = event["request"]["url"].removeprefix(address).partition("?")[0]

    def finished(event: dict[str, Any]) -> None:
        name = names[event["requestId"]]
        sizes[name] = sizes.get(name, 0) + int(event["encodedDataLength"])

    session.on("Network.requestWillBeSent", requested)
    session.on("Network.loadingFinished", finished)
    session.send("Network.enable")
    session.send("Performance.enable")
    # A process of the browser's own is started for a site's first page, whatever is on it.
    page.goto(address + "nothing")
    page.wait_for_timeout(SETTLED_MILLISECONDS)
    session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWDOWN})
    sizes.clear()
    # Not by waiting for an element, which would put a script into the page.
    with page.expect_console_message(lambda message: message.text == COMPLETE):
        page.goto(address + page_name, wait_until="commit")
    metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    page.wait_for_load_state("networkidle")
    times: dict[str, float] = page.evaluate("window.told()")
    before = dict(sizes)
    page.locator('input[name="rank"][value="gate"]').check(force=True)
    page.wait_for_selector('html:not(:has([aria-busy="true"]))', state="attached")
    page.wait_for_load_state("networkidle")
    context.close()
    return Load(page_name, times, {WORK[name]: 1000 * metrics[name] for name in WORK}, before, dict(sizes))


def spread(pages: Sequence[str], count: int) -> list[str]:
    """So many of the pages, at equal distances."""
    return [pages[place * len(pages) // count] for place in range(min(count, len(pages)))]


def middle(values: Iterable[float]) -> float:
    return statistics.median(values)


def weight_report(site: Path, page_name: str, shared: Iterable[str]) -> str:
    """Files and bytes of one neuron against the paper's, and what all pages share."""

    def sizes(names: Iterable[str]) -> tuple[int, int, int]:
        contents = [(site / name).read_bytes() for name in names if (site / name).is_file()]
        return len(contents), sum(map(len, contents)), sum(len(gzip.compress(content, 6)) for content in contents)

    rows = ["| | files | KB | KB compressed |", "|---|---|---|---|"]
    for label, names in (("a neuron", [page_name, page_name.replace(".html", ".js")]), ("shared by all pages", shared)):
        files, size, compressed = sizes(names)
        rows.append(f"| {label} | {files} | {size / 1e3:.1f} | {compressed / 1e3:.1f} |")
    rows.append(f"| a neuron in the paper's system | {PAPER_FILES} | {PAPER_MEGABYTES} MB | |")
    return "\n".join(rows)


def main() -> None:
    """Measure, print, and exit with 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, nargs="?", help="a built site; the demo's if left out")
    parser.add_argument("--neurons", type=int, default=4, help="pages that are opened")
    parser.add_argument("--runs", type=int, default=5, help="how often each is opened")
    options = parser.parse_args()
    site = built_site(options.site)
    pages = spread(neuron_pages(site), options.neurons)
    with served(site) as address, chromium() as browser:
        load(browser, address, pages[0])  # The first load of a browser is slower.
        loads = [load(browser, address, page) for page in pages for _ in range(options.runs)]
    print(f"Medians of {options.runs} loads of each page, processor slowed down {SLOWDOWN} times.\n")
    columns = ("page", "painted", "first screen", "usable", "complete", "KB before", "KB in all", "with shared files", "files")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    missed = []
    for page in pages:
        own = [one for one in loads if one.page == page]
        times = {name: middle(one.times[name] for one in own) for name in ("painted", "shown", "usable", "complete")}
        # The limits are those of a neuron's own files; a reader of many neurons loads the shared ones once.
        before, in_all = (
            middle(sum(getattr(one, name).get(file, 0) for file in one.own_files()) for one in own)
            for name in ("before", "in_all")
        )
        with_shared = middle(sum(one.before.values()) for one in own)
        files = max(len(one.own_files()) for one in own)
        milliseconds = " | ".join(f"{time:.0f} ms" for time in times.values())
        print(f"| {page} | {milliseconds} | {before / 1e3:.1f} | {in_all / 1e3:.1f} | {with_shared / 1e3:.1f} | {files} |")
        found = {
            f"first paint {FIRST_PAINT_MILLISECONDS} ms": times["painted"] > FIRST_PAINT_MILLISECONDS,
            f"usable {USABLE_MILLISECONDS} ms": times["usable"] > USABLE_MILLISECONDS,
            f"{BYTES_BEFORE / 1e3:.0f} KB before the first interaction": before > BYTES_BEFORE,
            f"{BYTES_IN_ALL / 1e3:.0f} KB in all": in_all > BYTES_IN_ALL,
            f"{FILES} files": files > FILES,
        }
        missed += [f"{page}: {limit}" for limit, is_missed in found.items() if is_missed]
    print("\n| main thread, until complete | ms |\n|---|---|")
    for kind in WORK.values():
        print(f"| {kind} | {middle(one.work[kind] for one in loads):.0f} |")
    print("\n| file | bytes transferred |\n|---|---|")
    for name, size in sorted(loads[0].in_all.items(), key=lambda item: -item[1]):
        print(f"| {name}{'' if name in loads[0].before else ', after the interaction'} | {size:,} |")
    print(f"\n{weight_report(site, pages[0], [name for name in loads[0].in_all if name not in loads[0].own_files()])}")
    if missed:
        sys.exit("Missed: " + "; ".join(missed) + ".")


if __name__ == "__main__":
    main()
