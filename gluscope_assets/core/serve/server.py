"""A server of a study's site on this machine: the files of its folder, and those that are made on demand.

Here is how they travel. What is made when a file is missing belongs to `core/on_demand`.
"""

import gzip
import hashlib
import html
import http.server
import re
import sys
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from gluscope_assets.core.errors import InputError

if TYPE_CHECKING:
    from gluscope_assets.core.serve.on_demand import OnDemand

HOST, PORT = "127.0.0.1", 8700
"""Where `gluscope serve` serves a site unless told otherwise."""

HOST_NAMES = (HOST, "localhost")
"""A page of another site whose name leads here asks for that name: such requests are refused."""

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
"""What a site consists of: text, which is sent compressed."""

MOST_COMPRESSED = 64
"""Files whose compressed content stays in memory."""

# Letters, digits and -_. alone, and no name starts with a dot: there is no way up, and nothing to decode.
_PART = r"[\w-][\w.-]{0,99}"
_ADDRESS = re.compile(rf"/(?P<name>(?:{_PART}/){{0,9}}(?:{_PART})?)(?:[?#].*)?", re.ASCII)


def open_server(folder: Path, port: int, on_demand: "OnDemand | None" = None) -> "SiteServer":
    """A server of `folder` on this machine alone; port 0 takes a free one. InputError if the port is taken."""
    try:
        return SiteServer(folder, port, on_demand)
    except OSError as error:
        raise InputError(f"Port {port} cannot be used ({error.strerror}); choose another with --port.") from error


class SiteServer(http.server.ThreadingHTTPServer):
    """Serves one site, a thread for each connection."""

    def __init__(self, folder: Path, port: int, on_demand: "OnDemand | None") -> None:
        self.folder, self.on_demand = folder.resolve(), on_demand
        super().__init__((HOST, port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a browser that did not wait for its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: SiteServer
    # Connections stay open: a page asks for several files.
    protocol_version = "HTTP/1.1"
    timeout = 60
    server_version, sys_version = "GLUScope", ""

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        found = _ADDRESS.fullmatch(self.path)
        if host not in HOST_NAMES:
            self._refuse(HTTPStatus.FORBIDDEN, f"This server answers to {' and '.join(HOST_NAMES)} alone.")
        elif found is None:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")
        elif found["name"] and (self.server.folder / found["name"]).is_dir() and not found["name"].endswith("/"):
            self._send(HTTPStatus.MOVED_PERMANENTLY, b"", {"Location": f"/{found['name']}/"})
        else:
            self._answer(found["name"] + "index.html" if found["name"].endswith("/") or not found["name"] else found["name"])

    do_HEAD = do_GET

    def _answer(self, name: str) -> None:
        path, made = self.server.folder / name, self.server.on_demand
        is_live = made is not None and name in made.live
        if path.is_file() and not is_live and self.server.folder in path.resolve().parents:
            self._send_file(path)
        else:
            try:
                content = made.file(name) if made is not None else None
            except InputError as error:
                self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
                return
            if content is None:
                self._refuse(HTTPStatus.NOT_FOUND, f"There is no {name}.")
            else:
                self._send_content(name, content)

    def _send_file(self, path: Path) -> None:
        status = path.stat()
        tag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
        if self._takes_gzip(path.name):
            self._send_tagged(path.name, f"{tag}-gzip", _compressed_file(path, status.st_mtime_ns, status.st_size), "gzip")
        else:
            self._send_tagged(path.name, tag, path.read_bytes(), None)

    def _send_content(self, name: str, content: bytes) -> None:
        tag = hashlib.blake2b(content, digest_size=12).hexdigest()
        if self._takes_gzip(name):
            self._send_tagged(name, f"{tag}-gzip", gzip.compress(content, 6, mtime=0), "gzip")
        else:
            self._send_tagged(name, tag, content, None)

    def _takes_gzip(self, name: str) -> bool:
        offered = [part.replace(" ", "").partition(";") for part in self.headers.get("Accept-Encoding", "").lower().split(",")]
        taken = any(coding == "gzip" and not re.fullmatch(r"q=0(\.0*)?", weight) for coding, _, weight in offered)
        return taken and Path(name).suffix in KINDS

    def _send_tagged(self, name: str, tag: str, content: bytes, encoding: str | None) -> None:
        kind = KINDS.get(Path(name).suffix, "application/octet-stream")
        headers = {"Content-Type": kind, "ETag": f'"{tag}"', "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        known = [one.strip().removeprefix("W/") for one in self.headers.get("If-None-Match", "").split(",")]
        if f'"{tag}"' in known or "*" in known:
            self._send(HTTPStatus.NOT_MODIFIED, b"", headers)
        else:
            self._send(HTTPStatus.OK, content, headers | ({"Content-Encoding": encoding} if encoding else {}))

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f'<title>{status.phrase}</title><p>{html.escape(sentence)}</p><p><a href="/">To the index</a></p></html>'
        )
        self._send(status, page.encode("utf-8", "replace"), {"Content-Type": KINDS[".html"]})

    def _send(self, status: HTTPStatus, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("X-Content-Type-Options", "nosniff")
        # Scripts hold data, and another site's page could load a script.
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: a page asks for several files."""


@lru_cache(MOST_COMPRESSED)
def _compressed_file(path: Path, modified: int, size: int) -> bytes:
    """The content of a file of that time and size, compressed."""
    return gzip.compress(path.read_bytes(), 6, mtime=0)
