"""Publishing to a branch of a git repository, as GitHub Pages and its likes read one.

A publication is a commit on top of the branch, so it is there as a whole or not at all, and history keeps every one before.
Only objects that the repository lacks are sent. What lies beside the site's folder in the branch, and a CNAME, stays.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.options import GitTarget
from gluscope_assets.core.publishing.contents import (
    PREFIX,
    Contents,
    Publication,
    Report,
    check_size,
    identity_of,
    no_previous,
    without_secrets,
)

LIMIT_BYTES = 1_000_000_000
"""GitHub's limit for a published site."""
FILE_LIMIT_BYTES = 100_000_000
"""GitHub's limit for a file."""
KEPT = ("CNAME",)
"""Files of the site's folder that hosts put there."""
NO_JEKYLL = ".nojekyll"
"""Says that names which begin with a dot or an underscore are files like any other."""
AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "gluscope"), ("EMAIL", "gluscope@localhost"))
}


@dataclass(frozen=True)
class Branch:
    """A branch of a repository elsewhere, and a bare repository here that holds its objects."""

    target: GitTarget
    cache: Path
    """A folder for that repository."""

    def publish(self, contents: Contents, report: Report) -> Publication:
        """Commit the site to the branch and push it.

        InputError if the site or a file is too large, git refuses, or somebody else pushed meanwhile.
        """
        check_size(contents, LIMIT_BYTES, "GitHub Pages", report)
        for name, size in contents.sizes.items():
            if size > FILE_LIMIT_BYTES:
                raise InputError(
                    f"{name} has {size / 1e6:.0f} MB and a git host takes files of 100 MB; publish the site elsewhere."
                )
        parent = self.fetch()
        before = self.files(parent)
        sources = {name: contents.site / name for name in contents.files} | {NO_JEKYLL: Path(os.devnull)}
        stored = self.git("hash-object", "-w", "--no-filters", "--stdin-paths", given=_lines(sources.values())).split()
        wanted = {self.path(name): blob for name, blob in zip(sources, stored, strict=True)}
        wanted |= {path: blob for path, blob in before.items() if not self.is_ours(path)}
        changed = [name for name in contents.files if before.get(self.path(name)) != wanted[self.path(name)]]
        previous: str | None = contents.identity
        if wanted != before:
            previous = self.identity(parent)
            self.push(self.commit(wanted, parent, f"{PREFIX}{contents.identity}"), parent)
        return contents.publication(without_secrets(self.name), previous, changed, LIMIT_BYTES)

    def roll_back(self, report: Report) -> Publication:
        """Commit what was published before the last publication. InputError if there is none."""
        parent = self.fetch()
        published = self.git("log", "--format=%H", f"--grep=^{PREFIX}", parent).split() if parent else []
        if parent is None or len(published) < 2:
            raise no_previous(without_secrets(self.name))
        back, before = self.files(published[1]), self.files(parent)
        identity = self.identity(published[1]) or ""
        report(f"Back from {self.identity(parent)} to {identity}.")
        ours = {path: blob for path, blob in back.items() if self.is_ours(path)}
        wanted = {path: blob for path, blob in before.items() if not self.is_ours(path)} | ours
        self.push(self.commit(wanted, parent, f"{PREFIX}{identity}"), parent)
        changed = [path for path, blob in ours.items() if before.get(path) != blob]
        sizes = self.sizes(sorted(set(ours.values())))
        return Publication(
            without_secrets(self.name), identity, self.identity(parent), len(ours), sum(sizes[blob] for blob in ours.values()),
            len(changed), sum(sizes[back[path]] for path in changed), LIMIT_BYTES,
        )  # fmt: skip

    @property
    def name(self) -> str:
        return f"{self.target.repository}, branch {self.target.branch}"

    @property
    def reference(self) -> str:
        return f"refs/heads/{self.target.branch}"

    def path(self, name: str) -> str:
        """A file of the site in the branch."""
        return f"{self.target.folder}/{name}" if self.target.folder else name

    def is_ours(self, path: str) -> bool:
        """Whether publishing decides about a path of the branch."""
        inside = not self.target.folder or path.startswith(f"{self.target.folder}/")
        return inside and path not in {self.path(name) for name in KEPT}

    def git(self, *arguments: str, given: str | None = None, environment: Mapping[str, str] | None = None) -> str:
        """Run git on the cache. InputError, without secrets, if it refuses."""
        settings = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", **AUTHOR, **(environment or {})}
        command = ["git", "--git-dir", str(self.cache), *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, env={**os.environ, **settings})
        if done.returncode:
            said = without_secrets(next(iter(done.stderr.strip().splitlines()[-1:]), "no reason given"))
            raise InputError(
                f"git {arguments[0]} failed for {without_secrets(self.name)} ({said}); check publish.git and your access to it."
            )
        return done.stdout

    def fetch(self) -> str | None:
        """The branch's commit, with its objects in the cache; None if there is no such branch."""
        if not (self.cache / "HEAD").is_file():
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            self.git("init", "--quiet", "--bare", str(self.cache))
        heads = self.git("ls-remote", self.target.repository, self.reference).split()
        if not heads:
            return None
        self.git("fetch", "--quiet", "--no-tags", self.target.repository, self.reference)
        return heads[0]

    def files(self, commit: str | None) -> dict[str, str]:
        """The blob of each file of a commit."""
        if commit is None:
            return {}
        lines = self.git("ls-tree", "-r", "-z", commit).split("\0")
        entries = (line.split("\t", 1) for line in lines if line)
        return {path: facts.split()[2] for facts, path in entries}

    def identity(self, commit: str | None) -> str | None:
        """Of the site that a commit published."""
        return identity_of(self.git("log", "-1", "--format=%s", commit).strip()) if commit else None

    def sizes(self, blobs: Sequence[str]) -> dict[str, int]:
        """Bytes of each blob."""
        lines = self.git("cat-file", "--batch-check=%(objectname) %(objectsize)", given=_lines(blobs)).splitlines()
        return {blob: int(size) for blob, size in (line.split() for line in lines)}

    def commit(self, files: Mapping[str, str], parent: str | None, message: str) -> str:
        """A commit of exactly these files."""
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            entries = "".join(f"100644 {blob}\t{path}\0" for path, blob in sorted(files.items()))
            self.git("update-index", "-z", "--index-info", given=entries, environment=index)
            tree = self.git("write-tree", environment=index).strip()
        return self.git("commit-tree", tree, "-m", message, *(("-p", parent) if parent else ())).strip()

    def push(self, commit: str, expected: str | None) -> None:
        """Make the branch this commit if it is still the expected one, and look that it is."""
        lease = f"--force-with-lease={self.reference}:{expected or ''}"
        self.git("push", "--quiet", lease, self.target.repository, f"{commit}:{self.reference}")
        # A commit's name is a hash over all that it holds.
        if self.git("ls-remote", self.target.repository, self.reference).split()[:1] != [commit]:
            raise InputError(f"{without_secrets(self.name)} is not what was pushed; somebody else changed it, publish again.")


def _lines(entries: Iterable[object]) -> str:
    return "".join(f"{entry}\n" for entry in entries)
