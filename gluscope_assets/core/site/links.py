"""Checks on a built site's files: every internal link resolves, and no neuron page is too large.

Only reads. What pages contain belongs to `core.pages`.
"""

import html
import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from isal import isal_zlib

from gluscope_assets.core.pages.site_map import read_manifest
from gluscope_assets.core.paths import MANIFEST, neuron_pages, page_file

PAGE_LIMIT = 120_000
"""Bytes that a neuron's own files may take together, compressed as a server sends them."""

_REFERENCE = re.compile(r"""\s(?:href|src)="([^"]*)\"""")
_IDENTITY = re.compile(r"""\sid="([^"]*)\"""")


def broken_links(site: Path, pages: Iterable[Path] | None = None) -> list[str]:
    """One sentence for each link or asset reference of `pages` that leads to no file or fragment of the site.

    Without `pages`, all HTML files are read, and every page that the manifest names must exist.
    """
    site = site.resolve()
    problems = []
    exists: dict[Path, bool] = {}
    fragments: dict[Path, set[str]] = {}

    def is_there(path: Path) -> bool:
        if path not in exists:
            exists[path] = path.is_file()
        return exists[path]

    for page in sorted(site.rglob("*.html")) if pages is None else pages:
        page = page.resolve()
        text = page.read_text(encoding="utf-8")
        fragments[page] = set(_IDENTITY.findall(text))
        for reference in dict.fromkeys(_REFERENCE.findall(text)):
            link = urlsplit(html.unescape(reference))
            if link.scheme or link.netloc:
                continue
            name = page.relative_to(site)
            target = Path(os.path.normpath(page.parent / unquote(link.path))) if link.path else page
            if link.path.startswith("/") or site not in target.parents:
                problems.append(f"{name} links to {reference}, which is not relative to the site.")
            elif not is_there(target):
                problems.append(f"{name} links to {reference}, which does not exist.")
            elif link.fragment and target.suffix == ".html":
                if target not in fragments:
                    fragments[target] = set(_IDENTITY.findall(target.read_text(encoding="utf-8")))
                if unquote(link.fragment) not in fragments[target]:
                    problems.append(f"{name} links to {reference}, and no element there has that id.")
    if pages is None:
        for entry in read_manifest(site)["checkpoints"]:
            for layer in entry["layers"]:
                for first, end in layer["pages"]:
                    for neuron in range(first, end):
                        target = site / page_file(entry["key"], layer["layer"], neuron)
                        if not is_there(target):
                            problems.append(f"{MANIFEST} names {target.relative_to(site)}, which does not exist.")
    return problems


def transferred_bytes(path: Path) -> int:
    """A file's bytes once compressed, fast and therefore a little more than most servers send."""
    return len(isal_zlib.compress(path.read_bytes(), 1)) if path.is_file() else 0


def oversized_pages(site: Path, limit: int = PAGE_LIMIT, pages: Iterable[Path] | None = None) -> list[str]:
    """One sentence for each neuron whose page and data have more than `limit` bytes together, compressed."""
    chosen = neuron_pages(site) if pages is None else pages
    sizes = ((page, sum(map(transferred_bytes, (page, page.with_suffix(".js"))))) for page in chosen)
    return [
        f"{page.name} in {page.parent} has {size:,} compressed bytes; the limit is {limit:,}."
        for page, size in sizes
        if size > limit
    ]
