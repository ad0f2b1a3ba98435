"""Resources of runs: how progress is told."""

import pytest

from gluscope_assets.orchestration.resources import ProgressLines


def test_progress_lines_say_done_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("gluscope_assets.orchestration.resources.time.monotonic", lambda: now)
    written: list[str] = []
    progress = ProgressLines("activations", "tokens", written.append, interval=5.0)
    now = 102.0
    progress(1_000, 10_000)
    assert not written
    now = 110.0
    progress(4_000, 10_000)
    now = 125.0
    progress(10_000, 10_000)
    assert written == [
        "activations: 4,000 of 10,000 tokens, 400 tokens/s, 0:15 left",
        "activations: 10,000 of 10,000 tokens, 400 tokens/s, 0:25 in all",
    ]
