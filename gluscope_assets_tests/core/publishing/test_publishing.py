"""Publishing: to a folder, a git branch, a bucket behind a real server, and a stand-in for the Hub."""

import gzip
import hashlib
import json
import os
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import pytest

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.options import BucketTarget, GitTarget, HubTarget, PublishOptions
from gluscope_assets.core.publishing import bucket, folder, git, publish, roll_back
from gluscope_assets.core.publishing.contents import blob_id, contents_of, without_secrets
from gluscope_assets.core.publishing.hub import Repository

FIRST = {
    "index.html": "<h1>one</h1>",
    "neurons.js": "gluscope = {}",
    "static/site.css": "body {}",
    "a-1234567/00/0.html": "<p>zero</p>",
    "a-1234567/00/0.js": "provide(0)",
}
SECOND = FIRST | {"index.html": "<h1>two</h1>", "a-1234567/00/0.js": "provide(00)", "a-1234567/00/1.html": "<p>new é</p>"}
CHANGED = {"index.html", "a-1234567/00/0.js", "a-1234567/00/1.html"}


def write_site(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return write_site(tmp_path / "first", FIRST)


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return write_site(tmp_path / "second", SECOND)


def silent(line: str) -> None:
    """A log that nobody reads."""


class Interrupted(Exception):
    """Something was cut off."""


def interrupt_at(patch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Let the given call of a function fail, counted from 0, and all after it: as if the process had died."""
    real, calls = getattr(owner, name), []

    def failing(*arguments: Any, **others: Any) -> Any:
        calls.append(name)
        if len(calls) > call:
            raise Interrupted
        return real(*arguments, **others)

    patch.setattr(owner, name, failing)


def interruptions(work: Callable[[], object], owner: Any, name: str, check: Callable[[bool], None]) -> int:
    """Do `work` with every one of its calls of a function as the last one, and `check` after each whether it got through."""
    for call in range(1000):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, owner, name, call)
            try:
                work()
                done = True
            except (Interrupted, InputError):
                done = False
        check(done)
        if done:
            return call
    raise AssertionError("it never got through")


# A folder


def files_in(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()}


def test_a_folder_gets_only_what_changed_and_goes_back(first: Path, second: Path, tmp_path: Path) -> None:
    options, lines = PublishOptions(folder=tmp_path / "public"), []
    one = publish(first, options, tmp_path / "cache", lines.append)
    assert (one.previous, one.changed, one.files) == (None, 5, 5)
    assert "5 files with 0.0 MB" in lines[0], "said before anything is written"
    same = publish(first, options, tmp_path / "cache", silent)
    assert same.previous == same.identity == one.identity
    assert same.changed == 0
    kept = (tmp_path / "public" / "static" / "site.css").stat().st_ino
    two = publish(second, options, tmp_path / "cache", silent)
    assert (two.previous, two.changed) == (one.identity, 3)
    assert files_in(tmp_path / "public") == SECOND
    assert (tmp_path / "public" / "static" / "site.css").stat().st_ino == kept, "what did not change is not copied"
    back = roll_back(options, tmp_path / "cache", silent)
    assert (back.identity, back.previous) == (one.identity, two.identity)
    assert files_in(tmp_path / "public") == FIRST
    roll_back(options, tmp_path / "cache", silent)
    assert files_in(tmp_path / "public") == SECOND


def test_a_folder_holds_a_whole_site_at_every_moment(first: Path, second: Path, tmp_path: Path) -> None:
    target = tmp_path / "public"
    options = PublishOptions(folder=target)
    publish(first, options, tmp_path, silent)

    def check(done: bool) -> None:
        assert files_in(target) == (SECOND if done else FIRST)

    for name in ("copyfile", "rmtree"):
        owner = folder.shutil
        calls = interruptions(lambda: publish(second, options, tmp_path, silent), owner, name, check)
        assert calls > 0
        roll_back(options, tmp_path, silent)


def test_a_folder_with_something_else_is_left_alone(first: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="something other than a site"):
        publish(first, PublishOptions(folder=tmp_path / "mine"), tmp_path, silent)
    assert files_in(tmp_path / "mine") == {"thesis.tex": "years of work"}
    with pytest.raises(InputError, match="no previous publication"):
        roll_back(PublishOptions(folder=tmp_path / "none"), tmp_path, silent)
    with pytest.raises(InputError, match="holds no site; run gluscope build"):
        publish(tmp_path / "mine", PublishOptions(folder=tmp_path / "other"), tmp_path, silent)


# A git branch


def run_git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A bare repository whose branch already has a CNAME, and a folder beside the site's."""
    work, bare = tmp_path / "work", tmp_path / "remote.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(bare)], check=True)
    subprocess.run(["git", "init", "--quiet", "-b", "gh-pages", str(work)], check=True)
    write_site(work, {"CNAME": "gluscope.example", "stale.html": "from before"})
    run_git(work, "add", ".")
    run_git(work, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "By hand")
    run_git(work, "push", "-q", str(bare), "gh-pages")
    return bare


def in_branch(remote: Path, branch: str = "gh-pages") -> dict[str, str]:
    names = run_git(remote, "ls-tree", "-r", "--name-only", branch).splitlines()
    return {name: run_git(remote, "show", f"{branch}:{name}") for name in names}


def test_a_branch_gets_a_commit_with_what_changed_and_goes_back(
    first: Path, second: Path, remote: Path, tmp_path: Path
) -> None:
    options = PublishOptions(git=GitTarget(repository=str(remote)))
    extra = {"CNAME": "gluscope.example", ".nojekyll": ""}
    one = publish(first, options, tmp_path / "cache", silent)
    assert in_branch(remote) == FIRST | extra
    assert (one.changed, one.previous) == (5, None)
    head = run_git(remote, "rev-parse", "gh-pages")
    same = publish(first, options, tmp_path / "cache", silent)
    assert same.previous == same.identity == one.identity
    assert run_git(remote, "rev-parse", "gh-pages") == head, "a second publication pushes nothing"
    two = publish(second, options, tmp_path / "other cache", silent)
    assert (two.changed, two.previous) == (3, one.identity)
    changed = run_git(remote, "diff", "--name-only", "gh-pages~1", "gh-pages").splitlines()
    assert set(changed) == CHANGED
    back = roll_back(options, tmp_path / "cache", silent)
    assert (back.identity, back.previous, back.changed) == (one.identity, two.identity, 2)
    assert in_branch(remote) == FIRST | extra
    assert len(run_git(remote, "log", "--format=%H", "gh-pages").split()) == 4, "history keeps every publication"


def test_a_folder_of_a_new_branch(first: Path, remote: Path, tmp_path: Path) -> None:
    options = PublishOptions(git=GitTarget(repository=str(remote), branch="main", folder="docs/site"))
    publish(first, options, tmp_path / "cache", silent)
    assert in_branch(remote, "main") == {f"docs/site/{name}": text for name, text in FIRST.items()} | {
        "docs/site/.nojekyll": ""
    }


def test_a_branch_changes_in_one_step(first: Path, second: Path, remote: Path, tmp_path: Path) -> None:
    options, cache = PublishOptions(git=GitTarget(repository=str(remote))), tmp_path / "cache"
    publish(first, options, cache, silent)

    def check(done: bool) -> None:
        content = in_branch(remote)
        assert {name: content[name] for name in content if name not in ("CNAME", ".nojekyll")} in (FIRST, SECOND)
        if done:
            assert content["index.html"] == SECOND["index.html"]

    calls = interruptions(lambda: publish(second, options, cache, silent), git.subprocess, "run", check)
    assert calls > 5


def test_a_push_of_somebody_else_is_not_overwritten(
    first: Path, second: Path, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = PublishOptions(git=GitTarget(repository=str(remote)))
    publish(first, options, tmp_path / "cache", silent)
    commit = git.Branch.commit

    def meanwhile(self: Any, files: Any, parent: str, message: str) -> str:
        made = commit(self, files, parent, message)
        other = subprocess.run(
            ["git", "-C", str(remote), "commit-tree", f"{parent}^{{tree}}", "-p", parent, "-m", "Mine"],
            env=os.environ | git.AUTHOR,
            capture_output=True,
            text=True,
            check=True,
        )
        run_git(remote, "update-ref", "refs/heads/gh-pages", other.stdout.strip())
        return made

    monkeypatch.setattr(git.Branch, "commit", meanwhile)
    with pytest.raises(InputError, match="git push failed"):
        publish(second, options, tmp_path / "cache", silent)
    assert run_git(remote, "log", "-1", "--format=%s", "gh-pages").strip() == "Mine"


def test_what_a_host_does_not_take_is_said_before_uploading(
    first: Path, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = PublishOptions(git=GitTarget(repository=str(remote)))
    head = run_git(remote, "rev-parse", "gh-pages")
    monkeypatch.setattr(git, "LIMIT_BYTES", 20)
    with pytest.raises(InputError, match="takes 0 GB; select fewer pages"):
        publish(first, options, tmp_path / "cache", silent)
    monkeypatch.undo()
    monkeypatch.setattr(git, "FILE_LIMIT_BYTES", 5)
    with pytest.raises(InputError, match="a git host takes files of 100 MB"):
        publish(first, options, tmp_path / "cache", silent)
    assert run_git(remote, "rev-parse", "gh-pages") == head


def test_secrets_reach_nobody(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghij")
    assert without_secrets("https://me:hunter2@host/x refused hf_abcdefghij") == "https://host/x refused …"
    options = PublishOptions(git=GitTarget(repository="http://me:hunter2@127.0.0.1:9/none.git"))
    with pytest.raises(InputError) as caught:
        publish(first, options, tmp_path / "cache", silent)
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


# A bucket


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3 server."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test-key-id")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret-key")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def target(server: str, tmp_path: Path) -> BucketTarget:
    """A bucket of the test's own."""
    import s3fs

    name = hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]
    s3fs.S3FileSystem(endpoint_url=server, skip_instance_cache=True).mkdir(name)
    return BucketTarget(url=f"s3://{name}/public", endpoint=server)


def in_bucket(target: BucketTarget) -> dict[str, str]:
    """What readers see: names and decoded contents, but for publishing's own folder."""
    files = bucket.Bucket(target).files
    root = target.url.removeprefix("s3://")
    found = {}
    for path in files.find(root):
        content = files.cat_file(path)
        name = path.removeprefix(f"{root}/")
        if not name.startswith(".gluscope"):
            found[name] = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode()
    return found


def test_a_bucket_gets_only_what_changed_and_goes_back(
    first: Path, second: Path, target: BucketTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = PublishOptions(bucket=target)
    one = publish(first, options, tmp_path, silent)
    assert in_bucket(target) == FIRST
    uploads: list[str] = []
    write = bucket.Bucket.write

    def counted(self: Any, path: str, *others: Any) -> None:
        uploads.append(path)
        write(self, path, *others)

    monkeypatch.setattr(bucket.Bucket, "write", counted)
    same = publish(first, options, tmp_path, silent)
    assert same.previous == same.identity == one.identity
    assert not uploads, "a second publication uploads nothing"
    two = publish(second, options, tmp_path, silent)
    assert {path.removeprefix(".gluscope/staged/") for path in uploads} == CHANGED
    assert in_bucket(target) == SECOND
    back = roll_back(options, tmp_path, silent)
    assert (back.identity, back.previous) == (one.identity, two.identity)
    assert in_bucket(target) == FIRST | {"a-1234567/00/1.html": SECOND["a-1234567/00/1.html"]}, "nothing that is linked goes"
    roll_back(options, tmp_path, silent)
    assert in_bucket(target) == SECOND


def test_objects_say_what_they_are(first: Path, target: BucketTarget, tmp_path: Path) -> None:
    publish(first, PublishOptions(bucket=target), tmp_path, silent)
    files, root = bucket.Bucket(target).files, target.url.removeprefix("s3://")
    facts = {}
    for name in FIRST:
        head = files.call_s3("head_object", Bucket=root.split("/")[0], Key=f"public/{name}")
        facts[name] = (head["ContentType"], head["ContentEncoding"], head["CacheControl"])
        assert head["Metadata"] == {"sha256": hashlib.sha256(FIRST[name].encode()).hexdigest()}
    assert facts["index.html"] == ("text/html; charset=utf-8", "gzip", "no-cache")
    assert facts["a-1234567/00/0.js"] == ("text/javascript; charset=utf-8", "gzip", "public, max-age=3600")
    assert facts["static/site.css"] == ("text/css; charset=utf-8", "gzip", "public, max-age=3600")


def test_an_interrupted_upload_leaves_a_bucket_intact_or_is_finished(
    first: Path, second: Path, target: BucketTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, opened = bucket.Bucket, bucket.Bucket(target)
    # Opening one takes longer than what is interrupted.
    monkeypatch.setattr("gluscope_assets.core.publishing.Bucket", lambda target: opened)
    options = PublishOptions(bucket=target)
    publish(first, options, tmp_path, silent)
    untouched: list[bool] = []

    def check(done: bool) -> None:
        content = in_bucket(target)
        journal = opened.journal()
        assert journal is not None
        if journal.complete:
            assert content == (SECOND if journal.identity == contents_of(second).identity else FIRST)
        untouched.append(content == FIRST)

    calls = interruptions(lambda: publish(second, options, tmp_path, silent), kind, "call", check)
    assert in_bucket(target) == SECOND
    assert calls > 10
    assert sum(untouched) > calls / 2, "most of the time nothing that readers see has changed"
    interruptions(lambda: roll_back(options, tmp_path, silent), kind, "call", lambda done: None)
    extra = {"a-1234567/00/1.html": SECOND["a-1234567/00/1.html"]}
    assert in_bucket(target) in (FIRST | extra, SECOND)


def test_a_bucket_that_refuses_is_one_sentence(first: Path, server: str, tmp_path: Path) -> None:
    options = PublishOptions(bucket=BucketTarget(url="s3://no-such-bucket/x", endpoint="http://127.0.0.1:9"))
    with pytest.raises(InputError, match="s3://no-such-bucket/x cannot be used .*check publish.bucket"):
        publish(first, options, tmp_path, silent)


# The Hub


class Hub(ThreadingHTTPServer):
    """A stand-in for the calls of the Hub that a commit of small files needs. Keeps every commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.commits: list[tuple[str, str, dict[str, bytes]]] = [(self.name(0), "initial commit", {".gitattributes": b""})]
        self.requests: list[str] = []
        self.large: set[str] = set()
        """Names of files that are stored as large ones."""

    def name(self, number: int) -> str:
        return hashlib.sha1(str(number).encode()).hexdigest()

    def commit(self, revision: str) -> tuple[str, str, dict[str, bytes]]:
        return next((one for one in self.commits if one[0] == revision), self.commits[-1])

    def entry(self, name: str, content: bytes) -> dict[str, object]:
        """What the Hub says of a file. Of a large one git holds a pointer, and the Hub the content by its hash."""
        if name not in self.large:
            return {"type": "file", "path": name, "size": len(content), "oid": blob_id(content)}
        sha256 = hashlib.sha256(content).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        lfs = {"oid": sha256, "size": len(content), "pointerSize": len(pointer)}
        return {"type": "file", "path": name, "size": len(content), "oid": blob_id(pointer), "lfs": lfs}

    def large_content(self, sha256: str) -> bytes:
        contents = (content for _, _, files in self.commits for name, content in files.items() if name in self.large)
        return next(content for content in contents if hashlib.sha256(content).hexdigest() == sha256)


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        parts = path.split("/")
        self.server.requests.append(path)
        if "resolve" in parts:
            at = parts.index("resolve")
            sha, _, files = self.server.commit(parts[at + 1])
            self.answer(files["/".join(parts[at + 2 :])], revision=sha)
        elif "/tree/" in path:
            _, _, files = self.server.commit(parts[parts.index("tree") + 1])
            self.answer([self.server.entry(name, body) for name, body in files.items()])
        elif "/commits/" in path:
            revision = parts[parts.index("commits") + 1]
            number = self.server.commits.index(self.server.commit(revision))
            self.answer(
                [
                    {"id": sha, "title": title, "message": "", "authors": [], "date": "2026-01-01T00:00:00.000Z"}
                    for sha, title, _ in reversed(self.server.commits[: number + 1])
                ]
            )
        else:
            self.answer({"id": "me/site", "sha": self.server.commits[-1][0], "siblings": [], "private": False})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(self.path)
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer({"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]})
        elif "/paths-info/" in self.path:
            _, _, files = self.server.commit(self.path.rpartition("/")[2])
            paths = parse_qs(body.decode())["paths"]
            self.answer([self.server.entry(name, files[name]) for name in paths if name in files])
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            header = next(line["value"] for line in lines if line["key"] == "header")
            sha, _, files = self.server.commits[-1]
            if header.get("parentCommit") not in (None, sha):
                self.answer({"error": "The main branch has moved."}, status=412)
                return
            files = dict(files)
            for line in lines:
                if line["key"] == "file":
                    files[line["value"]["path"]] = b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    files[line["value"]["path"]] = self.server.large_content(line["value"]["oid"])
                elif line["key"] == "deletedFile":
                    del files[line["value"]["path"]]
            self.server.commits.append((self.server.name(len(self.server.commits)), header["summary"], files))
            self.answer(
                {
                    "commitOid": self.server.commits[-1][0],
                    "commitUrl": "https://huggingface.co/spaces/me/site/commit/1",
                    "success": True,
                }
            )
        else:
            self.answer({"url": "http://127.0.0.1/me/site"})

    def answer(self, content: object, status: int = 200, revision: str | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if revision:
            self.send_header("ETag", f'"{blob_id(body)}"')
            self.send_header("X-Repo-Commit", revision)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants, hf_api

    with Hub() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(hf_api.constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(hf_api.api, "endpoint", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret_of_a_test")
        yield server
        server.shutdown()


def on_hub(hub: Hub) -> dict[str, str]:
    return {name: body.decode() for name, body in hub.commits[-1][2].items() if name not in (".gitattributes", "README.md")}


@pytest.mark.parametrize("kind", ["space", "dataset"])
def test_the_hub_gets_one_commit_and_goes_back(first: Path, second: Path, hub: Hub, tmp_path: Path, kind: Any) -> None:
    options = PublishOptions(hugging_face=HubTarget(repository="me/site", kind=kind))
    one = publish(first, options, tmp_path, silent)
    assert on_hub(hub) == FIRST
    assert ("sdk: static" in hub.commits[-1][2]["README.md"].decode()) == (kind == "space")
    same = publish(first, options, tmp_path, silent)
    assert same.previous == same.identity == one.identity
    assert len(hub.commits) == 2, "a second publication commits nothing"
    two = publish(second, options, tmp_path, silent)
    assert (two.previous, two.changed) == (one.identity, len(CHANGED) + 1), "and the README that names the publication"
    assert on_hub(hub) == SECOND
    back = roll_back(options, tmp_path, silent)
    assert (back.identity, back.previous) == (one.identity, two.identity)
    assert (back.files, back.bytes, back.changed) == (one.files, one.bytes, 3), "two files and the README"
    assert on_hub(hub) == FIRST
    assert "hf_secret" not in json.dumps([title for _, title, _ in hub.commits])


def test_going_back_leaves_large_files_on_the_hub(first: Path, second: Path, hub: Hub, tmp_path: Path) -> None:
    options = PublishOptions(hugging_face=HubTarget(repository="me/site", kind="dataset"))
    publish(first, options, tmp_path, silent)
    publish(second, options, tmp_path, silent)
    # As if it had been uploaded as a large one.
    hub.large.add("a-1234567/00/0.js")
    hub.requests.clear()
    roll_back(options, tmp_path, silent)
    assert on_hub(hub) == FIRST
    downloads = {path.rpartition("/resolve/")[2].partition("/")[2] for path in hub.requests if "/resolve/" in path}
    assert downloads == {"index.html", "README.md"}


@pytest.mark.parametrize("work", [publish, roll_back])
def test_a_commit_of_somebody_else_is_not_overwritten(
    first: Path, second: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Any
) -> None:
    options = PublishOptions(hugging_face=HubTarget(repository="me/site"))
    publish(first, options, tmp_path, silent)
    publish(second, options, tmp_path, silent)
    head = Repository.head

    def meanwhile(self: Repository) -> str:
        commit = head(self)
        hub.commits.append((hub.name(len(hub.commits)), "Mine", {"mine.txt": b"years of work"}))
        return commit

    monkeypatch.setattr(Repository, "head", meanwhile)
    arguments = (first, options) if work is publish else (options,)
    with pytest.raises(InputError, match="publish.hugging_face"):
        work(*arguments, tmp_path, silent)
    assert hub.commits[-1][1:] == ("Mine", {"mine.txt": b"years of work"})


@pytest.mark.parametrize("work", [publish, roll_back])
def test_a_hub_that_returns_something_else_is_noticed(
    first: Path, second: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Any
) -> None:
    options = PublishOptions(hugging_face=HubTarget(repository="me/site"))
    publish(first, options, tmp_path, silent)
    publish(second, options, tmp_path, silent)
    monkeypatch.setattr("gluscope_assets_tests.core.publishing.test_publishing.b64decode", lambda content: b"damaged")
    arguments = (first, options) if work is publish else (options,)
    with pytest.raises(InputError, match="does not return .* as it was committed; publish again"):
        work(*arguments, tmp_path, silent)


def test_a_folder_with_more_files_than_the_hub_takes_is_refused_before_anything_is_sent(
    first: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gluscope_assets.core.publishing.hub.MOST_FILES_OF_A_FOLDER", 3)
    for number in range(4):
        (first / "key" / "00").mkdir(parents=True, exist_ok=True)
        (first / "key" / "00" / f"{number}.html").write_text("a page")
    options = PublishOptions(hugging_face=HubTarget(repository="me/site"))
    with pytest.raises(InputError, match=r"key/00 has 4 files and the Hub takes 3 in a folder; select fewer pages"):
        publish(first, options, tmp_path / "cache", print)
    assert not hub.requests


def test_only_one_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give one of folder, git, bucket and hugging_face"):
        PublishOptions(folder=tmp_path, bucket=BucketTarget(url="s3://a"))
    with pytest.raises(InputError, match="publish is missing; name a folder, git, bucket or hugging_face"):
        publish(write_site(tmp_path / "site", FIRST), PublishOptions(), tmp_path, silent)
    assert os.path.isdir(tmp_path)
