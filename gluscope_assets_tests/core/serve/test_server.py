"""Serving: files as they lie there, pages that no build has written, and nothing else."""

import gzip
import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.pages.explorer_columns import groups
from gluscope_assets.core.pages.site_map import MANIFEST_PREFIX
from gluscope_assets.core.paths import HOME_VARIABLE
from gluscope_assets.core.serve.on_demand import OnDemand
from gluscope_assets.core.serve.server import SiteServer, open_server
from gluscope_assets.study.sources import all_sources, built_checkpoints
from gluscope_assets.study.study import STUDIES_VARIABLE
from gluscope_assets_tests.conftest import Workplace

PLAIN = {"Host": "localhost"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """Sends an address as it is: a library would tidy it."""

    def __init__(self, server: SiteServer) -> None:
        self.port = server.port

    def get(self, address: str, headers: dict[str, str] = PLAIN, method: str = "GET") -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, address, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        read = Answer(answer.status, {name.title(): value for name, value in answer.getheaders()}, answer.read())
        connection.close()
        return read


@contextmanager
def serving(folder: Path, on_demand: OnDemand | None) -> Iterator[Client]:
    with open_server(folder, 0, on_demand) as server:
        yield Client(server)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, built_tiny: Workplace) -> Workplace:
    """The tiny study with two pages of the first checkpoint alone, beside the one where all neurons have pages."""
    folder = tmp_path_factory.mktemp("few")
    shutil.copytree(built_tiny.file.parent, folder / "tiny")
    workplace = Workplace(folder / "tiny" / "tiny.yaml", folder / "tiny" / "home")
    content = yaml.safe_load(workplace.file.read_text())
    content["site"] = {"pages": [{"checkpoints": ["first"], "layers": [1], "neurons": [2, 5]}]}
    workplace.file.write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, str(workplace.home))
        patch.setenv(STUDIES_VARIABLE, "")
        assert workplace.build() == 0
    return workplace


@pytest.fixture(scope="module")
def client(few: Workplace) -> Iterator[Client]:
    sources = all_sources(few.study, few.folder)
    with closing(OnDemand(few.folder.site, sources)) as on_demand, serving(few.folder.site, on_demand) as client:
        yield client


@pytest.fixture(scope="module")
def keys(few: Workplace) -> list[str]:
    return [checkpoint.key for checkpoint in built_checkpoints(few.study, few.folder)]


def test_a_page_on_demand_is_the_page_of_a_build_that_selects_all(
    client: Client, built_tiny: Workplace, keys: list[str]
) -> None:
    built = sorted((built_tiny.folder.site / keys[1]).glob("*/[0-9]*.*"))
    assert len(built) == 2 * 12 * 2
    for path in built:
        answer = client.get(f"/{path.relative_to(built_tiny.folder.site)}")
        assert answer.status == 200
        assert answer.body == path.read_bytes(), path


def test_strips_on_demand_are_those_of_a_build_that_selects_all(
    client: Client, few: Workplace, built_tiny: Workplace, keys: list[str]
) -> None:
    built = sorted(path.relative_to(built_tiny.folder.site) for path in (built_tiny.folder.site / "training").rglob("*.js"))
    assert len(built) == 4
    assert sum((few.folder.site / path).is_file() for path in built) == 1
    for path in built:
        answer = client.get(f"/{path}")
        assert (answer.status, answer.body) == (200, (built_tiny.folder.site / path).read_bytes()), path


def test_files_that_are_there_are_served_as_they_are(client: Client, few: Workplace, keys: list[str]) -> None:
    files = [path for path in few.folder.site.rglob("*") if path.is_file() and path.name != "neurons.js"]
    pages = sorted(path.stem for path in files if path.stem.isdigit() and path.suffix == ".html")
    assert pages == ["2", "5"]
    for path in files:
        answer = client.get(f"/{path.relative_to(few.folder.site)}")
        assert (answer.status, answer.body) == (200, path.read_bytes())
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-cache"
    assert client.get("/").body == (few.folder.site / "index.html").read_bytes()
    moved = client.get(f"/{keys[0]}/01")
    assert (moved.status, moved.headers["Location"]) == (301, f"/{keys[0]}/01/")
    assert client.get(f"/{keys[0]}/01/").body == (few.folder.site / keys[0] / "01" / "index.html").read_bytes()


def test_kinds_are_named(client: Client, keys: list[str]) -> None:
    for name, kind in {
        "index.html": "text/html; charset=utf-8",
        "neurons.js": "text/javascript; charset=utf-8",
        f"{keys[1]}/00/3.js": "text/javascript; charset=utf-8",
        "static/site.css": "text/css; charset=utf-8",
        "static/icon.svg": "image/svg+xml",
    }.items():
        assert client.get(f"/{name}").headers["Content-Type"] == kind


def test_a_layer_without_pages_has_a_page_of_its_own(client: Client, keys: list[str]) -> None:
    text = client.get(f"/{keys[1]}/00/").body.decode()
    assert all(f'href="{neuron}.html"' in text for neuron in range(12))
    assert "NaN" not in text.upper().replace("NAN", "NaN")


def test_the_manifest_names_every_neuron(client: Client, keys: list[str]) -> None:
    manifest = json.loads(client.get("/neurons.js").body.decode().removeprefix(MANIFEST_PREFIX).rstrip(";\n"))
    assert manifest["study"] == "tiny"
    assert [(entry["key"], entry["name"]) for entry in manifest["checkpoints"]] == [(keys[0], "first"), (keys[1], "second")]
    layers = [{"layer": layer, "width": 12, "pages": [[0, 12]]} for layer in range(2)]
    assert all(entry["layers"] == layers for entry in manifest["checkpoints"])
    assert manifest["training"] == {"together": 8, "layers": {"0": [[0, 12]], "1": [[0, 12]]}}


@pytest.mark.parametrize(
    "address",
    [
        "/nothing.html", "/KEY/00/12.html", "/KEY/00/-1.html", "/KEY/00/01.html", "/KEY/0/1.html", "/KEY/000/1.html",
        "/KEY/02/1.html", "/KEY/00/1.txt", "/KEY/00/1.html/", "/KEY/00/" + "9" * 5000 + ".html", "/KEY/00/columns/none.js",
        "/other-0000000/00/1.html", "/KEY/99/",
        "/training/00/1.js", "/training/00/16.js", "/training/02/0.js", "/training/000/0.js", "/training/00/0.html",
        "/../tiny.yaml", "/../../tiny.yaml", "/%2e%2e/%2e%2e/tiny.yaml", "/link/", "/link/none.html",
        "/..%2f..%2ftiny.yaml", "/static/../../corpus/texts.parquet",
        "//etc/passwd", "/static//site.css", "/./index.html", "/.hidden", "/static/.x", "/KEY/00/..", "/..\\..\\tiny.yaml",
        "/index.html%00.js", "/link/secret.html", "/index.html%0d%0aX:y", "http://evil.example/index.html", "index.html", "*",
    ],
)  # fmt: skip
def test_whatever_else_is_asked_for_is_missing(client: Client, few: Workplace, keys: list[str], address: str) -> None:
    (few.folder.root / "outside").mkdir(exist_ok=True)
    (few.folder.root / "outside" / "secret.html").write_text("not of the site")
    link = few.folder.site / "link"
    link.symlink_to(few.folder.root / "outside")
    try:
        answer = client.get(address.replace("KEY", keys[1]))
    finally:
        link.unlink()
    assert answer.status == 404
    assert len(answer.body) < 6000
    assert b"<!doctype html>" in answer.body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8700", "127.0.0.1.evil.example", "", "[::1]", "LOCALHOST.evil"])
def test_only_this_machine_is_answered(client: Client, host: str) -> None:
    for headers in ({"Host": host}, {}):
        answer = client.get("/", headers)
        assert answer.status == 400
        assert len(answer.body) < 100
    for name in ("localhost", "127.0.0.1:9000", f"localhost:{client.port}"):
        assert client.get("/", {"Host": name}).status == 200


@pytest.mark.parametrize("name", ["index.html", "static/site.css", "neurons.js", "KEY/00/3.html", "KEY/00/3.js"])
def test_text_is_compressed_and_sent_once(client: Client, keys: list[str], name: str) -> None:
    address = "/" + name.replace("KEY", keys[1])
    plain = client.get(address)
    assert "Content-Encoding" not in plain.headers
    for accepted in ("gzip", "br, gzip;q=0.5", "GZIP"):
        packed = client.get(address, {**PLAIN, "Accept-Encoding": accepted})
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.headers["Vary"] == "Accept-Encoding"
        assert gzip.decompress(packed.body) == plain.body
        assert packed.headers["Etag"] != plain.headers["Etag"]
    for refused in ("gzip;q=0", "br", "gzip; q=0.0"):
        assert "Content-Encoding" not in client.get(address, {**PLAIN, "Accept-Encoding": refused}).headers
    for known in (plain.headers["Etag"], f'"other", W/{plain.headers["Etag"]}', "*"):
        again = client.get(address, {**PLAIN, "If-None-Match": known})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["Etag"] == plain.headers["Etag"]
    assert client.get(address, {**PLAIN, "If-None-Match": '"other"'}).status == 200


@pytest.mark.parametrize("name", ["index.html", "KEY/00/3.html", "KEY/00/99.html", "KEY/00", "..", "index.html#"])
@pytest.mark.parametrize("accepted", ["", "gzip"])
def test_head_answers_as_get_without_the_content(client: Client, keys: list[str], name: str, accepted: str) -> None:
    address, asked = "/" + name.replace("KEY", keys[1]), {**PLAIN, "Accept-Encoding": accepted}
    answer, head = client.get(address, asked), client.get(address, asked, "HEAD")
    assert head.body == b""
    passing = {"Date", "Last-Modified"}
    assert head.status == answer.status
    assert {name: value for name, value in head.headers.items() if name not in passing} == {
        name: value for name, value in answer.headers.items() if name not in passing
    }
    assert head.headers["Content-Length"] == str(len(answer.body))


@pytest.mark.parametrize("name", ["index.html", "static/site.css", "KEY/00/3.html", "KEY/00/columns/GROUP.js"])
def test_a_range_is_bytes_of_the_plain_content(client: Client, keys: list[str], name: str) -> None:
    address = "/" + name.replace("KEY", keys[1]).replace("GROUP", groups()[0])
    plain = client.get(address)
    size = len(plain.body)
    assert plain.headers["Accept-Ranges"] == "bytes"
    for asked, first, end in (("0-9", 0, 10), ("100-", 100, size), ("-7", size - 7, size), (f"5-{size * 2}", 5, size)):
        answer = client.get(address, {**PLAIN, "Range": f"bytes={asked}", "Accept-Encoding": "gzip"})
        assert (answer.status, answer.body) == (206, plain.body[first:end])
        assert answer.headers["Content-Range"] == f"bytes {first}-{end - 1}/{size}"
        assert answer.headers["Content-Length"] == str(end - first)
        assert answer.headers["Etag"] == plain.headers["Etag"]
        assert "Content-Encoding" not in answer.headers
    beyond = client.get(address, {**PLAIN, "Range": f"bytes={size}-"})
    assert (beyond.status, beyond.headers["Content-Range"], beyond.body) == (416, f"bytes */{size}", b"")
    packed = client.get(address, {**PLAIN, "Accept-Encoding": "gzip"})
    for tag, status in ((plain.headers["Etag"], 206), (packed.headers["Etag"], 200), ('"other"', 200)):
        answer = client.get(address, {**PLAIN, "Range": "bytes=0-9", "If-Range": tag})
        assert (answer.status, answer.body) == (status, plain.body[:10] if status == 206 else plain.body)
    known = client.get(address, {**PLAIN, "Range": "bytes=0-9", "If-None-Match": plain.headers["Etag"]})
    assert (known.status, known.body) == (304, b"")


def test_a_page_that_takes_long_holds_up_no_other(tmp_path: Path) -> None:
    asked, told = threading.Event(), threading.Event()

    class Slow(OnDemand):
        def __init__(self) -> None:
            """Makes one page, once it is told to."""

        def file(self, name: str) -> bytes | None:
            asked.set()
            return b"late" if told.wait(30) else None

    (tmp_path / "index.html").write_text("at once")
    with serving(tmp_path, Slow()) as client, ThreadPoolExecutor() as pool:
        late = pool.submit(client.get, "/late.html")
        assert asked.wait(30)
        assert client.get("/index.html").body == b"at once"
        assert not late.done()
        told.set()
        assert late.result(30).body == b"late"


def test_small_answers_on_an_open_connection_do_not_wait_for_each_other(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("short")
    with open_server(tmp_path, 0) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        seconds = []
        for _ in range(20):
            began = time.monotonic()
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"short"
            seconds.append(time.monotonic() - began)
        connection.close()
    assert sorted(seconds)[len(seconds) // 2] < 0.03, "a system that holds back the body does so for 40 ms"


def test_a_changed_file_is_sent_again(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("first")
    with serving(tmp_path, None) as client:
        packed = {**PLAIN, "Accept-Encoding": "gzip"}
        first = client.get("/", packed)
        (tmp_path / "index.html").write_text("second")
        again = client.get("/", {**packed, "If-None-Match": first.headers["Etag"]})
        assert (again.status, gzip.decompress(again.body)) == (200, b"second")
        assert client.get("/neurons.js").status == 404


def test_nothing_but_reading_is_possible(client: Client) -> None:
    for method in ("POST", "PUT", "DELETE"):
        answer = client.get("/index.html", method=method)
        assert (answer.status, set(answer.headers["Allow"].split(", "))) == (405, {"GET", "HEAD"})


def test_many_ask_at_once(client: Client, built_tiny: Workplace, keys: list[str]) -> None:
    names = [f"{keys[1]}/{layer:02d}/{neuron}.{kind}" for layer in range(2) for neuron in range(12) for kind in ("html", "js")]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: client.get(f"/{name}").body, names * 2))
    assert answers == [(built_tiny.folder.site / name).read_bytes() for name in names] * 2


def test_a_study_without_a_site_is_served_from_its_tables(few: Workplace, keys: list[str], tmp_path: Path) -> None:
    sources = all_sources(few.study, few.folder)
    with closing(OnDemand(tmp_path / "none", sources)) as on_demand, serving(tmp_path / "none", on_demand) as client:
        for name in ("", "about.html", "explorer.html", "static/site.css", "vocabulary.js", f"{keys[0]}/00/7.html"):
            assert client.get(f"/{name}").status == 200, name
        for group in groups():
            built = few.folder.site / keys[0] / "00" / "columns" / f"{group}.js"
            assert client.get(f"/{keys[0]}/00/columns/{group}.js").body == built.read_bytes()
    assert not (tmp_path / "none").exists()


def test_tables_that_are_made_again_give_new_pages(few: Workplace, keys: list[str], tmp_path: Path) -> None:
    shutil.copytree(few.folder.root, tmp_path / "tiny")
    home = type(few.folder)(tmp_path / "tiny")
    with closing(OnDemand(home.site, all_sources(few.study, home))) as on_demand:
        before = on_demand.file(f"{keys[0]}/00/7.html")
        assert before is not None
        for name in ("examples", "sample", "positions", "statistics"):
            shutil.copy(home.aggregate(keys[1], 0) / f"{name}.parquet", home.aggregate(keys[0], 0) / f"{name}.parquet")
        (home.aggregate(keys[0], 0) / "statistics.parquet").touch()
        assert on_demand.file(f"{keys[0]}/00/7.html") not in (before, None)


def test_a_damaged_table_is_one_sentence(few: Workplace, keys: list[str], tmp_path: Path) -> None:
    shutil.copytree(few.folder.root, tmp_path / "tiny")
    home = type(few.folder)(tmp_path / "tiny")
    (home.aggregate(keys[0], 0) / "examples.parquet").unlink()
    with closing(OnDemand(home.site, all_sources(few.study, home))) as on_demand, serving(home.site, on_demand) as client:
        answer = client.get(f"/{keys[0]}/00/7.html")
        assert answer.status == 500
        assert b"does not exist; run gluscope build" in answer.body
        assert client.get(f"/{keys[0]}/01/7.html").status == 200


def test_the_command_starts_without_a_deep_learning_library(few: Workplace, keys: list[str]) -> None:
    code = (
        "import sys, urllib.request\n"
        "from gluscope_assets.core.serve.server import SiteServer\n"
        "from gluscope_assets.commands.main import main\n"
        "early = {'starlette', 'uvicorn'} & set(sys.modules)\n"
        "def wait(server):\n"
        "    status = urllib.request.urlopen(server.address + sys.argv[2]).status\n"
        "    print(status, sorted(early | {'torch', 'transformers', 'dagster'} & set(sys.modules)))\n"
        "SiteServer.wait = wait\n"
        "sys.exit(main(['serve', '--study', sys.argv[1], '--port', '0']))\n"
    )
    environment = {HOME_VARIABLE: str(few.home), "PATH": "/usr/bin:/bin"}
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", code, str(few.file), f"{keys[1]}/01/7.html"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert run.stdout.splitlines()[-1] == "200 []"
    assert time.monotonic() - began < 30


def test_an_interrupt_ends_the_command_at_once_and_quietly(few: Workplace, keys: list[str]) -> None:
    """Also while a page is being made."""
    code = (
        "import signal, sys, threading, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from gluscope_assets.commands.main import main\n"
        "from gluscope_assets.core.serve.on_demand import OnDemand\n"
        "def file(self, name):\n"
        "    print('making', flush=True)\n"
        "    time.sleep(60)\n"
        "OnDemand.file = file\n"
        "sys.exit(main(['serve', '--study', sys.argv[1], '--port', '0']))\n"
    )
    environment = {HOME_VARIABLE: str(few.home), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(few.file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        address = re.search(r"http://\S+", command.stdout.readline())
        assert address is not None
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(urllib.request.urlopen, f"{address[0]}{keys[1]}/01/7.html", timeout=30)
            assert command.stdout.readline() == "making\n"
            began = time.monotonic()
            command.send_signal(signal.SIGINT)
            try:
                assert command.wait(20) == 0
            finally:
                command.kill()
            assert time.monotonic() - began < 10
            assert isinstance(asked.exception(30), OSError)
        assert command.stderr.read() == ""


@pytest.mark.parametrize("port", [70000, -1])
def test_a_port_that_is_none_is_one_sentence(tmp_path: Path, port: int) -> None:
    with (
        pytest.raises(InputError, match=rf"Port {port} cannot be used .*choose another with --port"),
        open_server(tmp_path, port),
    ):
        pass
