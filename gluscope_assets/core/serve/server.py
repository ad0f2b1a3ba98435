"""A server of a study's site on this machine: where it listens, how it starts and how it ends.

uvicorn speaks HTTP. How files travel belongs to `application`, which is imported only when a server opens: it takes longer to
import than most commands run.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from gluscope_assets.core.errors import InputError

if TYPE_CHECKING:
    from gluscope_assets.core.serve.on_demand import OnDemand

HOST, PORT = "127.0.0.1", 8700
"""Where `gluscope serve` serves a site unless told otherwise."""

HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    # Scripts hold data, and another site's page could load a script.
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
"""Headers of every answer."""

PATIENCE_SECONDS = 1.0
"""How long the end of a server waits for answers that are being sent or made."""


@dataclass(frozen=True)
class SiteServer:
    """A server that answers."""

    port: int
    thread: Thread

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}/"

    def wait(self) -> None:
        """Wait for an interrupt, which raises KeyboardInterrupt."""
        # In turns: a system may hand an interrupt to another thread, and the main one learns of it when it next wakes. Not by
        # `join`, which takes a thread for ended once it was interrupted.
        while self.thread.is_alive():
            time.sleep(0.2)


@contextmanager
def open_server(folder: Path, port: int, on_demand: "OnDemand | None" = None) -> Iterator[SiteServer]:
    """A server of `folder` on this machine alone, which answers inside `with`; port 0 takes a free one.

    It runs in a thread that ends with the process even while a page is being made, so that an interrupt is obeyed at once.
    InputError if the port is taken.
    """
    import uvicorn

    from gluscope_assets.core.serve.application import site_application

    try:
        listening = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "there is none of this number"
        raise InputError(f"Port {port} cannot be used ({reason}); choose another with --port.") from error
    # h11, which comes with uvicorn, hands on an address as it was asked for; what else uvicorn can use cuts a host out of it.
    # Without a log configuration nothing is said of requests, and errors in the code reach the terminal all the same.
    # Connections inherit this: asyncio sets it itself only where a socket was made with its protocol's number. Without it the
    # system holds back an answer's body until the browser has confirmed the headers, for 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        site_application(folder, on_demand, [HOST, "localhost"]),
        loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False,
        server_header=False, headers=HEADERS, timeout_keep_alive=60,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, args=([listening],), daemon=True)
    with listening:
        thread.start()
        try:
            yield SiteServer(listening.getsockname()[1], thread)
        finally:
            server.should_exit = True
            thread.join(PATIENCE_SECONDS)
