"""A static server for a built site, and the address that links to it use. Nothing else is served."""

import functools
import http.server
from pathlib import Path

from gluscope_assets.core.errors import InputError

HOST, PORT = "127.0.0.1", 8700
"""Where `gluscope serve` serves a site unless told otherwise."""


def open_server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server of `folder` on this machine alone; port 0 takes a free one. InputError if the port is taken."""
    try:
        return http.server.ThreadingHTTPServer((HOST, port), functools.partial(_QuietHandler, directory=str(folder)))
    except OSError as error:
        raise InputError(f"Port {port} cannot be used ({error.strerror}); choose another with --port.") from error


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: a page asks for several files."""
