"""Publishing to a folder, such as one that a web server shows.

A whole new folder is made beside the published one and takes its place in one step of the operating system; the one that was
there becomes the previous one. Files that did not change are links to those that are there.
"""

import ctypes
import os
import shutil
from pathlib import Path

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import sha256_of
from gluscope_assets.core.paths import MANIFEST
from gluscope_assets.core.publishing.contents import Contents, Publication, Report, check_size, contents_of

EXCHANGE = 2
"""renameat2's flag for two paths that trade places."""
WORKING_FOLDER = -100
"""renameat2's name for paths that start at the working folder, or are absolute."""


def publish(contents: Contents, target: Path, report: Report) -> Publication:
    """Make `target` hold the site. InputError if it holds something else."""
    before = _published(target)
    check_size(contents, None, str(target), report)
    changed = [name for name, sha256 in contents.files.items() if before is None or before.files.get(name) != sha256]
    if before is None or before.identity != contents.identity:
        new = _beside(target, "new")
        shutil.rmtree(new, ignore_errors=True)
        for name in contents.files:
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if before is not None and name not in changed:
                os.link(target / name, path)
            else:
                shutil.copyfile(contents.site / name, path)
        _verify(contents, new)
        _take_place(new, target)
    return Publication(
        str(target), contents.identity, before.identity if before else None, len(contents.files), contents.total_bytes,
        len(changed), sum((contents.site / name).stat().st_size for name in changed),
    )  # fmt: skip


def roll_back(target: Path, report: Report) -> Publication:
    """Put the previous publication back; the present one becomes the previous. InputError if there is none."""
    previous = _beside(target, "previous")
    if not (previous / MANIFEST).is_file() or not (target / MANIFEST).is_file():
        raise InputError(f"{target} has no previous publication; publish a site instead.")
    now, back = contents_of(target), contents_of(previous)
    check_size(back, None, str(target), report)
    changed = [name for name, sha256 in back.files.items() if now.files.get(name) != sha256]
    size = sum((previous / name).stat().st_size for name in changed)
    _exchange(previous, target)
    return Publication(str(target), back.identity, now.identity, len(back.files), back.total_bytes, len(changed), size)


def _published(target: Path) -> Contents | None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    if not (target / MANIFEST).is_file():
        raise InputError(f"{target} holds something other than a site; empty it or set publish.folder to another one.")
    return contents_of(target)


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}")


def _verify(contents: Contents, folder: Path) -> None:
    for name, sha256 in contents.files.items():
        if sha256_of(folder / name) != sha256:
            raise InputError(f"{folder / name} is not what was written; check the disk and publish again.")


def _take_place(new: Path, target: Path) -> None:
    """`new` becomes `target`, and what was there the previous publication. There is a whole site at every moment."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        new.rename(target)
        return
    previous = _beside(target, "previous")
    shutil.rmtree(previous, ignore_errors=True)
    _exchange(new, target)
    if any(new.iterdir()):
        new.rename(previous)
    else:
        new.rmdir()


def _exchange(first: Path, second: Path) -> None:
    """Two folders trade places at once."""
    library = ctypes.CDLL(None, use_errno=True)
    paths = (WORKING_FOLDER, os.fsencode(first), WORKING_FOLDER, os.fsencode(second), EXCHANGE)
    if not hasattr(library, "renameat2") or library.renameat2(*paths):
        # Elsewhere than on Linux, and on some network file systems, it takes three steps.
        aside = first.with_name(f"{first.name}.aside")
        second.rename(aside)
        first.rename(second)
        aside.rename(first)
