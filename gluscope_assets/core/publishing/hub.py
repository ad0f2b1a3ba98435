"""Publishing to a Hugging Face repository: a static Space, or a dataset repository that keeps the site.

A publication is one commit on top of the main branch, so it is there as a whole or not at all. The Hub's own library makes it,
with the token of the environment: it uploads large files apart from others, refuses a commit if somebody else was first, and
goes back by copies from the earlier commit, which leaves large files where they are on the Hub.

Which files changed is found out here, from the Hub's list of their hashes. The library would leave unchanged files out of a
commit too, but asks the Hub about each file of the site for that, with its first bytes, downloads each file that it is to copy,
and does not say what it left out. The hashes are needed anyway, to see that the Hub returns what was sent.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import hub_errors
from gluscope_assets.core.options import HubTarget
from gluscope_assets.core.publishing.contents import (
    PREFIX,
    Contents,
    Publication,
    Report,
    blob_id,
    check_size,
    identity_of,
    no_previous,
)

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete

MOST_FILES = 100_000
"""Files that the Hub recommends as the most of a repository."""
MOST_FILES_OF_A_FOLDER = 10_000
"""The Hub refuses a commit with more."""
HUB_CARD = "README.md"
HUBS_OWN = ".gitattributes"
"""A file that the Hub itself keeps: it says which files are large."""
BRANCH = "main"


class Stored(NamedTuple):
    """A file of a commit."""

    identity: str
    """Its SHA-256 in hex if it is stored as a large file, else git's name for its content."""
    bytes: int


class Repository:
    """A repository of the Hub."""

    def __init__(self, target: HubTarget) -> None:
        from huggingface_hub import HfApi

        self.api, self.target = HfApi(), target
        self.name = f"{target.kind} {target.repository}"

    def publish(self, contents: Contents, report: Report) -> Publication:
        """Commit the site. InputError if the Hub refuses, or somebody else committed meanwhile."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        _check_files(contents, report)
        wanted: dict[str, Path | bytes] = {name: contents.site / name for name in contents.files}
        wanted[HUB_CARD] = _card(self.target, contents)
        sdk = "static" if self.target.kind == "space" else None
        with hub_errors("publish.hugging_face", self.target.repository, None):
            self.api.create_repo(self.target.repository, repo_type=self.target.kind, space_sdk=sdk, exist_ok=True)
            head = self.head()
            before = self.files(head)
            changed = [name for name, source in wanted.items() if not _is_same(source, before.get(name))]
            operations: list[Operation] = [CommitOperationAdd(name, wanted[name]) for name in changed]
            operations += [CommitOperationDelete(name) for name in before if name not in wanted]
            previous: str | None = contents.identity
            if operations:
                previous = identity_of(self.titles(head)[0][1])
                after = self.commit(operations, contents.identity, head)
                self.verify([name for name, source in wanted.items() if not _is_same(source, after.get(name))])
        publication = contents.publication(self.name, previous, [name for name in changed if name != HUB_CARD])
        return replace(publication, changed=len(changed))

    def roll_back(self, report: Report) -> Publication:
        """Commit what was published before the last publication. InputError if there is none."""
        from huggingface_hub import CommitOperationCopy, CommitOperationDelete

        with hub_errors("publish.hugging_face", self.target.repository, None):
            head = self.head()
            published = [(identity, commit) for commit, title in self.titles(head) if (identity := identity_of(title))]
            if len(published) < 2:
                raise no_previous(self.name)
            (present, _), (identity, earlier) = published[:2]
            report(f"Back from {present} to {identity}.")
            back, now = self.files(earlier), self.files(head)
            changed = [name for name, stored in back.items() if now.get(name) != stored]
            operations: list[Operation] = [CommitOperationCopy(name, name, src_revision=earlier) for name in changed]
            operations += [CommitOperationDelete(name) for name in now if name not in back]
            after = self.commit(operations, identity, head)
            self.verify([name for name, stored in back.items() if after.get(name) != stored])
        site = [stored.bytes for name, stored in back.items() if name != HUB_CARD]
        return Publication(
            self.name, identity, present, len(site), sum(site), len(changed), sum(back[name].bytes for name in changed)
        )

    def head(self) -> str:
        """The last commit of the branch."""
        return str(self.api.repo_info(self.target.repository, repo_type=self.target.kind, revision=BRANCH).sha)

    def files(self, commit: str) -> dict[str, Stored]:
        """The files of a commit, but for the Hub's own."""
        from huggingface_hub.hf_api import RepoFile

        tree = self.api.list_repo_tree(self.target.repository, repo_type=self.target.kind, revision=commit, recursive=True)
        files = [entry for entry in tree if isinstance(entry, RepoFile) and entry.path != HUBS_OWN]
        return {entry.path: Stored(entry.lfs.sha256 if entry.lfs else entry.blob_id, entry.size) for entry in files}

    def titles(self, commit: str) -> list[tuple[str, str]]:
        """A commit and those before it, each with its title, the last first."""
        commits = self.api.list_repo_commits(self.target.repository, repo_type=self.target.kind, revision=commit)
        return [(entry.commit_id, entry.title) for entry in commits]

    def commit(self, operations: "Sequence[Operation]", identity: str, head: str) -> dict[str, Stored]:
        """Publish on top of `head`; the files of the new commit. An error of the Hub if the branch has moved."""
        done = self.api.create_commit(
            self.target.repository, operations, commit_message=f"{PREFIX}{identity}", repo_type=self.target.kind,
            revision=BRANCH, parent_commit=head,
        )  # fmt: skip
        return self.files(done.oid)

    def verify(self, differing: Sequence[str]) -> None:
        """InputError if there are files that the Hub does not return as they were committed."""
        if differing:
            raise InputError(f"{self.target.repository} does not return {differing[0]} as it was committed; publish again.")


def _check_files(contents: Contents, report: Report) -> None:
    """Say how large the site is, and what the Hub says of that. InputError if it will not take it."""
    check_size(contents, None, "the Hub", report)
    folder, files = Counter(str(Path(name).parent) for name in contents.files).most_common(1)[0]
    if files > MOST_FILES_OF_A_FOLDER:
        raise InputError(
            f"{folder} has {files:,} files and the Hub takes {MOST_FILES_OF_A_FOLDER:,} in a folder; select fewer pages in "
            "site.pages or publish to a bucket."
        )
    if len(contents.files) > MOST_FILES:
        report(f"The Hub recommends at most {MOST_FILES:,} files in a repository; publish a site of this size to a bucket.")


def _is_same(source: Path | bytes, stored: Stored | None) -> bool:
    content = source if isinstance(source, bytes) else source.read_bytes()
    return stored is not None and stored.identity in (blob_id(content), hashlib.sha256(content).hexdigest())


def _card(target: HubTarget, contents: Contents) -> bytes:
    """The README that the Hub wants: it names the kind of Space, and what lies here."""
    space = "sdk: static\nemoji: 🔬\ncolorFrom: purple\ncolorTo: green\n" if target.kind == "space" else ""
    title = target.repository.split("/")[1]
    text = f"A GLUScope site, {len(contents.files):,} files, publication {contents.identity}."
    return f"---\ntitle: {title}\n{space}---\n\n{text}\n".encode()
