"""What is published: the files of a built site by name and hash, what a target does and reports, and secrets kept out of it.

How files reach a target belongs to the target's own module.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import hash_of, sha256_of
from gluscope_assets.core.paths import MANIFEST, site_files

Report = Callable[[str], None]
"""Takes a line for the log."""

PREFIX = "Publish "
"""Begins the message of a commit that publishes a site; its identity follows."""

OWN = ".gluscope"
"""The folder of a target that holds what publishing itself keeps there. No page links into it."""


@dataclass(frozen=True)
class Contents:
    """The files of a site."""

    site: Path
    files: Mapping[str, str]
    """SHA-256 in hex by name, with `/` between folders."""
    sizes: Mapping[str, int]
    """Bytes by name."""

    @property
    def total_bytes(self) -> int:
        return sum(self.sizes.values())

    @property
    def identity(self) -> str:
        """A hash over names and contents: two sites with one identity are the same."""
        return hash_of(sorted(self.files.items()))[:16]

    def publication(
        self, target: str, previous: str | None, changed: Iterable[str], limit_bytes: int | None = None
    ) -> "Publication":
        """What a publication of all this reports, for which the `changed` files of the site were uploaded."""
        sizes = [self.sizes[name] for name in changed]
        return Publication(
            target, self.identity, previous, len(self.files), self.total_bytes, len(sizes), sum(sizes), limit_bytes
        )


@dataclass(frozen=True)
class Publication:
    """What one publication or roll-back did."""

    target: str
    """Where to, without credentials."""
    identity: str
    previous: str | None
    """The identity of what was there before; None if nothing was."""
    files: int
    bytes: int
    changed: int
    """Files that were uploaded."""
    changed_bytes: int
    limit_bytes: int | None = None
    """The most that the target takes, where that is known."""

    def metadata(self) -> dict[str, str | int | float]:
        """What is said of it."""
        return {
            "target": self.target,
            "publication": self.identity,
            "previous publication": self.previous or "none",
            "files": self.files,
            "bytes": self.bytes,
            "files uploaded": self.changed,
            "bytes uploaded": self.changed_bytes,
            **({"share of the limit": self.bytes / self.limit_bytes} if self.limit_bytes else {}),
        }


class Target(Protocol):
    """A public place of a site."""

    def publish(self, contents: Contents, report: Report) -> Publication:
        """Make the place hold the site. InputError if it refuses."""

    def roll_back(self, report: Report) -> Publication:
        """Put back what the last publication replaced. InputError if there was none before it."""


def contents_of(site: Path) -> Contents:
    """The files of a built site. InputError if it is none."""
    if not (site / MANIFEST).is_file():
        raise InputError(f"{site} holds no site; run gluscope build.")
    paths = {path.relative_to(site).as_posix(): path for path in sorted(site_files(site))}
    files = {name: sha256_of(path) for name, path in paths.items()}
    return Contents(site, files, {name: path.stat().st_size for name, path in paths.items()})


def identity_of(title: str) -> str | None:
    """The identity of the site that a commit with this title published; None if it published none."""
    return title.removeprefix(PREFIX) if title.startswith(PREFIX) else None


def check_size(contents: Contents, limit: int | None, target: str, report: Report) -> None:
    """Say how large the site is before anything is uploaded. InputError if the target will not take it."""
    share = f", {contents.total_bytes / limit:.0%} of the {limit / 1e9:.0f} GB that this target takes" if limit else ""
    report(f"{len(contents.files):,} files with {contents.total_bytes / 1e6:,.1f} MB{share}.")
    if limit and contents.total_bytes > limit:
        raise InputError(
            f"The site has {contents.total_bytes / 1e9:.2f} GB and {target} takes {limit / 1e9:.0f} GB; select fewer pages in "
            f"site.pages or publish it elsewhere."
        )


def no_previous(target: str) -> InputError:
    """The error of a roll-back that has nothing to go back to."""
    return InputError(f"{target} has no previous publication; publish a site instead.")


SECRETS = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|ACCESS_KEY", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """`text` without passwords in addresses and without the values of environment variables that hold credentials."""
    text = re.sub(r"(?<=://)[^/@\s]+@", "", text)
    for name, value in os.environ.items():
        if SECRETS.search(name) and len(value) >= 6:
            text = text.replace(value, "…")
    return text


def blob_id(content: bytes) -> str:
    """The name that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
