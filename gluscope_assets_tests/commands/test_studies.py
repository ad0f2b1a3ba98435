"""`gluscope studies`: what its table says."""

import pytest

from gluscope_assets.commands import main as cli
from gluscope_assets.study.study import STUDIES_VARIABLE
from gluscope_assets_tests.conftest import Workplace


def test_studies_lists_checkpoints_pages_and_status(
    tiny: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STUDIES_VARIABLE, str(tiny.file))
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["studies"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(row[1], *row[3:]) for row in rows if row and row[0] == "tiny"] == [
        ("first", "2", "4", "fresh"),
        ("second", "2", "24", "fresh"),
    ]
    tiny.file.write_text(tiny.file.read_text().replace("examples: 3", "examples: 2"))
    assert cli.main(["studies"]) == 0
    assert "to do: activation_shards, neuron_pages, quadrant_aggregates" in capsys.readouterr().out


def test_a_study_with_missing_input_does_not_hide_the_others(
    tiny: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tiny.file.parent / "first" / "config.json").unlink()
    monkeypatch.setenv(STUDIES_VARIABLE, str(tiny.file))
    monkeypatch.setenv("COLUMNS", "400")
    assert cli.main(["studies"]) == 0
    printed = capsys.readouterr().out
    assert "has no config.json" in printed
    assert " demo " in printed
