"""Checks on a built site's files: every internal link resolves, and no neuron page is too large.

Only reads. What pages contain belongs to `core.pages`.
"""

import html
import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
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
    links = _Links(site.resolve())
    if pages is not None:
        return [problem for page in pages for problem in links.broken_in(page.resolve())]
    broken = [problem for page in sorted(links.site.rglob("*.html")) for problem in links.broken_in(page)]
    return [*broken, *links.missing_pages()]


class _Links:
    """The files of a site and the elements of its pages that links lead to, each looked for once."""

    def __init__(self, site: Path) -> None:
        self.site = site
        self._is_file = cache(Path.is_file)
        self._fragments: dict[Path, set[str]] = {}

    def broken_in(self, page: Path) -> Iterator[str]:
        """One sentence for each broken link of a page."""
        text, name = page.read_text(encoding="utf-8"), page.relative_to(self.site)
        self._fragments[page] = set(_IDENTITY.findall(text))
        for reference in dict.fromkeys(_REFERENCE.findall(text)):
            link = urlsplit(html.unescape(reference))
            if link.scheme or link.netloc:
                continue
            target = Path(os.path.normpath(page.parent / unquote(link.path))) if link.path else page
            if link.path.startswith("/") or self.site not in target.parents:
                yield f"{name} links to {reference}, which is not relative to the site."
            elif not self._is_file(target):
                yield f"{name} links to {reference}, which does not exist."
            elif link.fragment and target.suffix == ".html" and unquote(link.fragment) not in self._fragments_of(target):
                yield f"{name} links to {reference}, and no element there has that id."

    def _fragments_of(self, page: Path) -> set[str]:
        if page not in self._fragments:
            self._fragments[page] = set(_IDENTITY.findall(page.read_text(encoding="utf-8")))
        return self._fragments[page]

    def missing_pages(self) -> Iterator[str]:
        """One sentence for each page that the manifest names and the site lacks."""
        for entry in read_manifest(self.site)["checkpoints"]:
            for layer in entry["layers"]:
                for neuron in (neuron for first, end in layer["pages"] for neuron in range(first, end)):
                    name = page_file(entry["key"], layer["layer"], neuron)
                    if not self._is_file(self.site / name):
                        yield f"{MANIFEST} names {name}, which does not exist."


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
