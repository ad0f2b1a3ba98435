"""`gluscope serve`: where it serves, and what it refuses."""

import socket
import urllib.request

import pytest

from gluscope_assets.commands import main as cli
from gluscope_assets.core.serve.server import open_server
from gluscope_assets_tests.conftest import Workplace


def test_the_site_is_served_on_this_machine_only(tiny: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    with open_server(tiny.folder.site, 0) as server:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", server.port), timeout=5)
        with urllib.request.urlopen(f"{server.address}index.html") as answer:
            assert answer.read() == (tiny.folder.site / "index.html").read_bytes()
        assert cli.main(["serve", "--study", str(tiny.file), "--port", str(server.port)]) == 2
    assert "cannot be used" in capsys.readouterr().err


def test_a_site_must_be_built_before_it_is_served(fresh: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--study", str(fresh.file)]) == 2
    assert "holds no site yet; run gluscope build" in capsys.readouterr().err
