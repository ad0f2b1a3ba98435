"""Publishing: a built site to its public place, all or nothing, only what changed, read back, and back again.

Here: the choice among the places of `PublishOptions`. Each has a module of its own.
"""

from pathlib import Path

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.options import PublishOptions
from gluscope_assets.core.publishing import bucket, folder, hub
from gluscope_assets.core.publishing import git as git_branch
from gluscope_assets.core.publishing.contents import Publication, Report, contents_of


def publish(site: Path, options: PublishOptions, cache: Path, report: Report) -> Publication:
    """Publish a site where `options` say. `cache` is a folder for what a target wants to keep here between publications.

    InputError if no place is given, the site is too large, or the place refuses; what was published before is then as it was.
    """
    contents = contents_of(site)
    if options.folder is not None:
        return folder.publish(contents, options.folder, report)
    if options.git is not None:
        return git_branch.publish(contents, options.git, cache, report)
    if options.bucket is not None:
        return bucket.publish(contents, options.bucket, report)
    if options.hugging_face is not None:
        return hub.publish(contents, options.hugging_face, report)
    raise _no_place()


def roll_back(options: PublishOptions, cache: Path, report: Report) -> Publication:
    """Put back what was published before the last publication. InputError as `publish`, or if there is none."""
    if options.folder is not None:
        return folder.roll_back(options.folder, report)
    if options.git is not None:
        return git_branch.roll_back(options.git, cache, report)
    if options.bucket is not None:
        return bucket.roll_back(options.bucket, report)
    if options.hugging_face is not None:
        return hub.roll_back(options.hugging_face, report)
    raise _no_place()


def _no_place() -> InputError:
    return InputError("publish is missing; name a folder, git, bucket or hugging_face there.")
