"""How files travel to a browser: which name leads to which file, compressed or a range of it, and refusals in a sentence.

Starlette does what HTTP says: `TrustedHostMiddleware` answers this machine's names alone, because a page of another site whose
name leads here asks for that name; `FileResponse` sends files, ranges of them, and what `HEAD` and `If-Range` ask for;
`StaticFiles` finds a file without leaving the folder and knows when a browser has it already. The server that runs this sends
no body after `HEAD`.

By hand stays what Starlette does otherwise than a site needs. Compression: `GZipMiddleware` compresses a file anew for each
request, also for a browser that gives gzip a weight of 0, under the tag of the plain file, and its `HEAD` has other headers
than its `GET`. Types: `StaticFiles` takes them from this machine's settings. Names: plain ones alone lead anywhere, so that no
hidden file is served. Redirects: theirs name a host. A request with `Range` is answered from the plain content even if gzip is
accepted, because who asks for bytes means those of the file.

What is made when a file is missing belongs to `on_demand`, and where a server listens to `server`.
"""

import gzip
import hashlib
import html
import os
import re
import stat
import tempfile
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Receive, Scope, Send

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.paths import INDEX, MANIFEST
from gluscope_assets.core.serve.on_demand import OnDemand

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

# Letters, digits and -_. alone, and no name starts with a dot: there is no way up.
_PLAIN = r"[\w-][\w.-]{0,99}"
_NAME = re.compile(rf"(?:{_PLAIN}/){{0,9}}(?:{_PLAIN})?", re.ASCII)


def site_application(folder: Path, on_demand: OnDemand | None, host_names: list[str]) -> Starlette:
    """An application that answers requests to `host_names`, from the files of `folder` and, if given, from `on_demand`."""
    return Starlette(
        # Starlette calls what is not a coroutine in its thread pool, so a page that takes long to make holds up no other.
        routes=[Route("/{name:path}", _Site(folder, on_demand).answer)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=host_names, www_redirect=False)],
        exception_handlers={HTTPException: _refusal, InputError: _refusal},
    )


class _Site:
    """The files of one site."""

    def __init__(self, folder: Path, on_demand: OnDemand | None) -> None:
        self.files, self.on_demand = StaticFiles(directory=folder, check_dir=False), on_demand

    def answer(self, request: Request) -> Response:
        """The file that an address names, in the form that the request asks for."""
        name: str = request.path_params["name"]
        if _NAME.fullmatch(name) is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such page.")
        if name.endswith("/") or not name:
            name += INDEX
        path, status = self.files.lookup_path(name)
        if status is not None and stat.S_ISDIR(status.st_mode):
            return RedirectResponse(f"/{name}/", HTTPStatus.MOVED_PERMANENTLY)
        # The site's own manifest names only the pages that a build has written.
        is_made = status is None or (self.on_demand is not None and name == MANIFEST)
        content = self._made(name) if is_made else None
        if content is None and status is not None:
            tag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
        else:
            tag = hashlib.blake2b(content or b"", digest_size=12).hexdigest()
        suffix = Path(name).suffix
        compress = suffix in KINDS and "range" not in request.headers and _takes_gzip(request.headers)
        headers = {
            "Content-Type": KINDS.get(suffix, "application/octet-stream"),
            "ETag": f'"{tag}-gzip"' if compress else f'"{tag}"',
            "Cache-Control": "no-cache",
            "Vary": "Accept-Encoding",
            "Accept-Ranges": "bytes",
        }
        if self.files.is_not_modified(Headers(headers), request.headers):
            return NotModifiedResponse(Headers(headers))
        if compress:
            packed = _compressed(content) if content is not None else _compressed_file(path, tag)
            return Response(packed, headers=headers | {"Content-Encoding": "gzip"})
        return _MadeResponse(content, headers) if content is not None else _FileResponse(path, headers=headers)

    def _made(self, name: str) -> bytes:
        """The content of a file that is made for this request."""
        content = self.on_demand.file(name) if self.on_demand is not None else None
        if content is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"There is no {name}.")
        return content


class _FileResponse(FileResponse):
    """A file or ranges of it, read in few steps: each is a turn of the thread pool."""

    chunk_size = 1 << 20


class _MadeResponse(_FileResponse):
    """Content that no file holds, or ranges of it: a file holds it while it is sent."""

    def __init__(self, content: bytes, headers: dict[str, str]) -> None:
        super().__init__("", headers=headers)
        self.content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with tempfile.NamedTemporaryFile(prefix="gluscope-") as file:
            file.write(self.content)
            file.flush()
            self.path = file.name
            await super().__call__(scope, receive, send)


def _takes_gzip(headers: Headers) -> bool:
    offers = [offer.replace(" ", "").partition(";") for offer in headers.get("Accept-Encoding", "").lower().split(",")]
    return any(coding == "gzip" and not re.fullmatch(r"q=0(\.0*)?", weight) for coding, _, weight in offers)


def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, 6, mtime=0)


@lru_cache(MOST_COMPRESSED)
def _compressed_file(path: str | os.PathLike[str], tag: str) -> bytes:
    """The content of a file, compressed again when its tag changes."""
    return _compressed(Path(path).read_bytes())


def _refusal(request: Request, error: Exception) -> Response:
    """A page that says why there is no answer."""
    refused = error if isinstance(error, HTTPException) else HTTPException(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{HTTPStatus(refused.status_code).phrase}</title><p>{html.escape(refused.detail)}</p>"
        '<p><a href="/">To the index</a></p></html>'
    )
    headers = {**(refused.headers or {}), "Content-Type": KINDS[".html"]}
    return Response(page.encode("utf-8", "replace"), refused.status_code, headers)
