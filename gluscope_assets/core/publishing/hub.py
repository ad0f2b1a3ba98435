"""Publishing to a Hugging Face repository: a static Space, or a dataset repository that keeps the site.

A publication is one commit on top of the main branch, so it is there as a whole or not at all. The Hub's own library sends what
changed, with the token of the environment.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import hub_errors
from gluscope_assets.core.options import HubTarget
from gluscope_assets.core.publishing.contents import Contents, Publication, Report, blob_id, check_size

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete

MOST_FILES = 100_000
"""Files that the Hub recommends as the most of a repository."""
MOST_FILES_OF_A_FOLDER = 10_000
"""The Hub refuses a commit with more."""
CARD = "README.md"
PREFIX = "Publish "
BRANCH = "main"


def publish(contents: Contents, target: HubTarget, report: Report) -> Publication:
    """Commit the site. InputError if the Hub refuses, or somebody else committed meanwhile."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    check_size(contents, None, "the Hub", report)
    folder, files = Counter(str(Path(name).parent) for name in contents.files).most_common(1)[0]
    if files > MOST_FILES_OF_A_FOLDER:
        raise InputError(
            f"{folder} has {files:,} files and the Hub takes {MOST_FILES_OF_A_FOLDER:,} in a folder; select fewer pages in "
            "site.pages or publish to a bucket."
        )
    if len(contents.files) > MOST_FILES:
        report(f"The Hub recommends at most {MOST_FILES:,} files in a repository; publish a site of this size to a bucket.")
    api, kind = HfApi(), target.kind
    with hub_errors("publish.hugging_face", target.repository, None):
        api.create_repo(target.repository, repo_type=kind, space_sdk="static" if kind == "space" else None, exist_ok=True)
        head = api.repo_info(target.repository, repo_type=kind, revision=BRANCH).sha
        before = _files(target, head)
        wanted: dict[str, Path | bytes] = {name: contents.site / name for name in contents.files}
        wanted[CARD] = _card(target, contents)
        changed = [name for name, source in wanted.items() if not _same(source, before.get(name))]
        gone = [name for name in before if name not in wanted and name != ".gitattributes"]
        previous = _identity(target, head)
        if changed or gone:
            operations: list[Operation] = [
                *(
                    CommitOperationAdd(name, source if isinstance(source, bytes) else str(source))
                    for name, source in wanted.items()
                    if name in set(changed)
                ),
                *(CommitOperationDelete(name) for name in gone),
            ]
            api.create_commit(
                target.repository, operations, commit_message=f"{PREFIX}{contents.identity}", repo_type=kind, revision=BRANCH,
                parent_commit=head,
            )  # fmt: skip
            _verify(target, wanted)
    return Publication(
        f"{kind} {target.repository}", contents.identity, previous if changed or gone else contents.identity,
        len(contents.files), contents.total_bytes, len(changed),
        sum((contents.site / name).stat().st_size for name in changed if name != CARD),
    )  # fmt: skip


def roll_back(target: HubTarget, report: Report) -> Publication:
    """Commit what was published before the last publication. InputError if there is none."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download

    api, kind = HfApi(), target.kind
    with hub_errors("publish.hugging_face", target.repository, None):
        head = api.repo_info(target.repository, repo_type=kind, revision=BRANCH).sha
        published = [one for one in api.list_repo_commits(target.repository, repo_type=kind) if one.title.startswith(PREFIX)]
        if len(published) < 2:
            raise InputError(f"{kind} {target.repository} has no previous publication; publish a site instead.")
        identity = published[1].title.removeprefix(PREFIX)
        report(f"Back from {published[0].title.removeprefix(PREFIX)} to {identity}.")
        back, now = _files(target, published[1].commit_id), _files(target, head)
        changed = [name for name, stored in back.items() if now.get(name) != stored]
        sources = {
            name: Path(hf_hub_download(target.repository, name, repo_type=kind, revision=published[1].commit_id))
            for name in changed
        }
        operations: list[Operation] = [
            *(CommitOperationAdd(name, str(path)) for name, path in sources.items()),
            *(CommitOperationDelete(name) for name in now if name not in back),
        ]
        api.create_commit(
            target.repository, operations, commit_message=f"{PREFIX}{identity}", repo_type=kind, revision=BRANCH,
            parent_commit=head,
        )  # fmt: skip
        _verify(target, sources)
    size = sum(path.stat().st_size for path in sources.values())
    return Publication(
        f"{kind} {target.repository}", identity, published[0].title.removeprefix(PREFIX), len(back), 0, len(changed), size
    )


def _files(target: HubTarget, commit: str | None) -> dict[str, str]:
    """Of each file of a commit the SHA-256 if it is stored as a large file, else git's name for its content."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    tree = HfApi().list_repo_tree(target.repository, repo_type=target.kind, revision=commit, recursive=True)
    files = [entry for entry in tree if isinstance(entry, RepoFile)]
    return {entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id for entry in files}


def _identity(target: HubTarget, commit: str | None) -> str | None:
    """Of the site that a commit published."""
    from huggingface_hub import HfApi

    commits = HfApi().list_repo_commits(target.repository, repo_type=target.kind, revision=commit)
    title = commits[0].title if commits else ""
    return title.removeprefix(PREFIX) if title.startswith(PREFIX) else None


def _same(source: Path | bytes, stored: str | None) -> bool:
    content = source if isinstance(source, bytes) else source.read_bytes()
    return stored in (blob_id(content), hashlib.sha256(content).hexdigest())


def _verify(target: HubTarget, wanted: Mapping[str, Path | bytes]) -> None:
    after = _files(target, BRANCH)
    for name, source in wanted.items():
        if not _same(source, after.get(name)):
            raise InputError(f"{target.repository} does not return {name} as it was committed; publish again.")


def _card(target: HubTarget, contents: Contents) -> bytes:
    """The README that the Hub wants: it names the kind of Space, and what lies here."""
    space = "sdk: static\nemoji: 🔬\ncolorFrom: purple\ncolorTo: green\n" if target.kind == "space" else ""
    title = target.repository.split("/")[1]
    said = f"A GLUScope site, {len(contents.files):,} files, publication {contents.identity}."
    return f"---\ntitle: {title}\n{space}---\n\n{said}\n".encode()
