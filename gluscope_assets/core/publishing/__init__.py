"""Publishing: a built site to its public place, all or nothing, only what changed, read back, and back again.

Here: the choice among the targets of `PublishOptions`, each of which has a module of its own (`folder`, `git`, `bucket` and
`hub`), and what they share (`contents`). Not here: making the site, which belongs to `core.site`, and files that other programs
read, which belong to `core.exchange`.
"""

from pathlib import Path

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.options import PublishOptions
from gluscope_assets.core.publishing.bucket import Bucket
from gluscope_assets.core.publishing.contents import Publication, Report, Target, contents_of
from gluscope_assets.core.publishing.folder import Folder
from gluscope_assets.core.publishing.git import Branch
from gluscope_assets.core.publishing.hub import Repository

__all__ = ["bucket", "contents", "folder", "git", "hub", "publish", "roll_back"]


def publish(site: Path, options: PublishOptions, cache: Path, report: Report) -> Publication:
    """Publish a site where `options` say. `cache` is a folder for what a target wants to keep here between publications.

    InputError if no target is given, the site is too large, or the target refuses; what was published before is then as it was.
    """
    return _target(options, cache).publish(contents_of(site), report)


def roll_back(options: PublishOptions, cache: Path, report: Report) -> Publication:
    """Put back what was published before the last publication. InputError as `publish`, or if there is none."""
    return _target(options, cache).roll_back(report)


def _target(options: PublishOptions, cache: Path) -> Target:
    if options.folder is not None:
        return Folder(options.folder)
    if options.git is not None:
        return Branch(options.git, cache)
    if options.bucket is not None:
        return Bucket(options.bucket)
    if options.hugging_face is not None:
        return Repository(options.hugging_face)
    raise InputError("publish is missing; name a folder, git, bucket or hugging_face there.")
