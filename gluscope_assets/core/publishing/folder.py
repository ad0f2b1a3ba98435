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
from gluscope_assets.core.publishing.contents import Contents, Publication, Report, check_size, contents_of, no_previous

EXCHANGE = 2
"""renameat2's flag for two paths that trade places."""
WORKING_FOLDER = -100
"""renameat2's name for paths that start at the working folder, or are absolute."""


class Folder:
    """A folder that holds a site, or nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def publish(self, contents: Contents, report: Report) -> Publication:
        """Make the folder hold the site. InputError if it holds something else."""
        before = self._published()
        check_size(contents, None, str(self.path), report)
        changed = [name for name, sha256 in contents.files.items() if before is None or before.files.get(name) != sha256]
        if before is None or before.identity != contents.identity:
            new = self._beside("new")
            shutil.rmtree(new, ignore_errors=True)
            for name in contents.files:
                path = new / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if before is not None and name not in changed:
                    os.link(self.path / name, path)
                else:
                    shutil.copyfile(contents.site / name, path)
            _verify(contents, new)
            self._replace_by(new)
        return contents.publication(str(self.path), before.identity if before else None, changed)

    def roll_back(self, report: Report) -> Publication:
        """Put the previous publication back; the present one becomes the previous. InputError if there is none."""
        previous = self._beside("previous")
        if not (previous / MANIFEST).is_file() or not (self.path / MANIFEST).is_file():
            raise no_previous(str(self.path))
        now, back = contents_of(self.path), contents_of(previous)
        check_size(back, None, str(self.path), report)
        changed = [name for name, sha256 in back.files.items() if now.files.get(name) != sha256]
        publication = back.publication(str(self.path), now.identity, changed)
        _exchange(previous, self.path)
        return publication

    def _published(self) -> Contents | None:
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return None
        if not (self.path / MANIFEST).is_file():
            raise InputError(f"{self.path} holds something other than a site; empty it or set publish.folder to another one.")
        return contents_of(self.path)

    def _beside(self, kind: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{kind}")

    def _replace_by(self, new: Path) -> None:
        """`new` becomes this folder, and what was there the previous publication. There is a whole site at every moment."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            new.rename(self.path)
            return
        previous = self._beside("previous")
        shutil.rmtree(previous, ignore_errors=True)
        _exchange(new, self.path)
        if any(new.iterdir()):
            new.rename(previous)
        else:
            new.rmdir()


def _verify(contents: Contents, folder: Path) -> None:
    for name, sha256 in contents.files.items():
        if sha256_of(folder / name) != sha256:
            raise InputError(f"{folder / name} is not what was written; check the disk and publish again.")


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
