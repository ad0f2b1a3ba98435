"""Publishing to an S3-compatible bucket.

A bucket changes object by object. So changed files are first uploaded below `.gluscope/staged/`, where no page looks, and what
they will replace is copied below `.gluscope/previous/`. Only then are they copied to their names, inside the bucket and in an
order that keeps pages whole; a journal says so, and the next publication or roll-back finishes what was interrupted. Before
that copying the published site is untouched. Nothing is deleted that a page may link: files that the site no longer has stay.
"""

import gzip
import hashlib
import json
import mimetypes
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.options import BucketTarget
from gluscope_assets.core.publishing.contents import (
    OWN,
    Contents,
    Publication,
    Report,
    check_size,
    no_previous,
    without_secrets,
)

JOURNAL = f"{OWN}/publication.json"
TEXT = ("text/", "application/json", "application/javascript", "image/svg+xml")
"""Types that are stored compressed."""
FRESH, LASTING = "no-cache", "public, max-age=3600"
"""What browsers are told of pages and of all else: names stay the same when contents change."""
COMPRESSION = 6


@dataclass(frozen=True)
class Journal:
    """What the bucket holds."""

    identity: str
    files: dict[str, str]
    """SHA-256 in hex by name, of the files as they are in the site."""
    bytes: int
    changed: list[str] = field(default_factory=list)
    """Names that this publication replaced or added."""
    previous: "dict[str, Any] | None" = None
    """The journal of the publication before, without its own previous one."""
    complete: bool = True
    """False while files are copied to their names."""


class Bucket:
    """A prefix of a bucket."""

    def __init__(self, target: BucketTarget) -> None:
        try:
            import s3fs  # type: ignore[import-untyped]
        except ImportError as error:
            raise InputError("Publishing to a bucket needs s3fs; install gluscope[s3].") from error
        self.target, self.root = target, target.url.removeprefix("s3://").rstrip("/")
        options = {"endpoint_url": target.endpoint} if target.endpoint else {}
        self.files: Any = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True, **options)

    def publish(self, contents: Contents, report: Report) -> Publication:
        """Make the bucket hold the site. InputError if it cannot be reached or does not return what was written."""
        check_size(contents, None, self.target.url, report)
        journal = self.finished(self.journal())
        before = journal.files if journal else {}
        changed = [name for name, sha256 in contents.files.items() if before.get(name) != sha256]
        if changed or journal is None or journal.identity != contents.identity:
            self.clear("staged")
            for name in changed:
                self.write(f"{OWN}/staged/{name}", (contents.site / name).read_bytes(), name, contents.files[name])
                self.verify(f"{OWN}/staged/{name}", contents.files[name])
                if journal is not None and name in before:
                    self.copy(name, f"{OWN}/previous/{journal.identity}/{name}")
            old = asdict(replace(journal, previous=None)) if journal else None
            new = Journal(contents.identity, dict(contents.files), contents.total_bytes, changed, old, complete=False)
            self.finish(new)
        return contents.publication(self.target.url, journal.identity if journal else None, changed)

    def roll_back(self, report: Report) -> Publication:
        """Put back what the last publication replaced. InputError if there was none before it."""
        journal = self.finished(self.journal())
        if journal is None or journal.previous is None:
            raise no_previous(self.target.url)
        back = Journal(**journal.previous)
        report(f"Back from {journal.identity} to {back.identity}.")
        replaced = [name for name in journal.changed if name in back.files]
        self.clear("staged")
        for name in replaced:
            self.copy(f"{OWN}/previous/{back.identity}/{name}", f"{OWN}/staged/{name}")
            # What a further roll-back returns to.
            self.copy(name, f"{OWN}/previous/{journal.identity}/{name}")
        now = asdict(replace(journal, previous=None, changed=[]))
        self.finish(replace(back, changed=replaced, previous=now, complete=False))
        return Publication(self.target.url, back.identity, journal.identity, len(back.files), back.bytes, len(replaced), 0)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def call(self, method: str, *arguments: Any, **others: Any) -> Any:
        """One request. InputError, without secrets, if the bucket refuses."""
        try:
            return getattr(self.files, method)(*arguments, **others)
        except FileNotFoundError:
            raise
        except Exception as error:  # botocore and aiohttp have no common one
            raise InputError(
                f"{self.target.url} cannot be used ({without_secrets(str(error)) or type(error).__name__}); check "
                f"publish.bucket and the AWS_ variables of the environment."
            ) from error

    def read(self, name: str) -> bytes:
        content: bytes = self.call("cat_file", self.path(name))
        return content

    def journal(self) -> Journal | None:
        """What the bucket holds; None if nothing was ever published."""
        try:
            content = self.read(JOURNAL)
        except FileNotFoundError:
            return None
        try:
            return Journal(**json.loads(content))
        except (ValueError, TypeError) as error:
            raise InputError(f"{self.target.url}/{JOURNAL} is not a journal; delete it to publish everything again.") from error

    def finished(self, journal: Journal | None) -> Journal | None:
        """The journal once what it says is true: copying that was interrupted is done again."""
        return journal if journal is None or journal.complete else self.finish(journal)

    def finish(self, journal: Journal) -> Journal:
        """Copy staged files to their names."""
        self.write_journal(journal)
        for name in sorted(journal.changed, key=_order):
            self.copy(f"{OWN}/staged/{name}", name)
        for name in journal.changed:
            self.verify(name, journal.files[name])
        done = replace(journal, complete=True)
        self.write_journal(done)
        self.clear("staged")
        self.clear("previous", but=done.previous["identity"] if done.previous else None)
        return done

    def write_journal(self, journal: Journal) -> None:
        content = json.dumps(asdict(journal), sort_keys=True).encode()
        self.call("pipe_file", self.path(JOURNAL), content, ContentType="application/json", CacheControl=FRESH)

    def write(self, path: str, content: bytes, name: str, sha256: str) -> None:
        """Upload a file of the site that will be called `name`, with what browsers need to know of it."""
        kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "application/octet-stream"
        headers = {"ContentType": kind, "CacheControl": FRESH if name.endswith(".html") or "/" not in name else LASTING}
        if kind.startswith(TEXT):
            headers |= {"ContentType": f"{kind}; charset=utf-8", "ContentEncoding": "gzip"}
            # Without a time, so that the same content is stored as the same bytes.
            content = gzip.compress(content, COMPRESSION, mtime=0)
        self.call("pipe_file", self.path(path), content, Metadata={"sha256": sha256}, **headers)

    def verify(self, path: str, sha256: str) -> None:
        """InputError if an object's content is not the one with this hash."""
        content = self.read(path)
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise InputError(f"{self.target.url}/{path} does not return what was written; publish again.")

    def copy(self, source: str, destination: str) -> None:
        """Inside the bucket, headers included."""
        self.call("cp_file", self.path(source), self.path(destination))

    def clear(self, folder: str, but: str | None = None) -> None:
        """Delete what publishing keeps in one of its own folders, but for what is below `but`."""
        root = self.path(f"{OWN}/{folder}")
        paths = [path for path in self.call("find", root) if but is None or not path.startswith(f"{root}/{but}/")]
        if paths:
            self.call("rm", paths)


def _order(name: str) -> tuple[int, str]:
    """What pages load comes before them, and what lists pages after."""
    last = ("neurons.js", "index.html", "explorer.html")
    return (2 if name in last else 1 if name.endswith(".html") else 0), name
