"""Tables for others and from others, by the command line: what is exported, imported and then served."""

import re
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gluscope_assets.commands import main as cli
from gluscope_assets.core.serve.on_demand import OnDemand
from gluscope_assets.study.sources import all_sources
from gluscope_assets_tests.commands.test_build import keys
from gluscope_assets_tests.conftest import Workplace
from gluscope_assets_tests.support.tiny import LAYERS, WIDTH


@pytest.fixture
def table(built_tiny: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The last checkpoint of the built study in the paper's schema."""
    monkeypatch.setenv("GLUSCOPE_HOME", str(built_tiny.home))
    path = tmp_path / "table.parquet"
    assert cli.main(["export", "--study", str(built_tiny.file), "paper", str(path)]) == 0
    assert pq.read_metadata(path).num_rows == LAYERS * WIDTH
    return path


def page(workplace: Workplace, layer: int, neuron: int) -> str:
    """A neuron's page as the server makes it."""
    with closing(OnDemand(workplace.folder.site, all_sources(workplace.study, workplace.folder))) as on_demand:
        content = on_demand.file(f"{keys(workplace)[1]}/{layer:02d}/{neuron}.html")
    assert content is not None
    return content.decode()


def shown(text: str) -> tuple[list[str], list[str], list[str]]:
    """Of a page the counts of the quadrants, the means of the tables, and (text, position, value) of the examples."""
    counts = re.findall(r'<strong>[^<]*</strong><span class="n">n = ([\d,\s]+)</span>', text)
    means = re.findall(r'<th scope="row">(?:gate|in|act|post)</th><td>([^<]*)</td>', text)
    examples = re.findall(r'<span class="value">([^<]*)</span>.*?, (text \d+, position \d+)"', text)
    return counts, means, sorted(f"{place} {value}" for value, place in examples)


def test_an_imported_table_is_served_with_windows_from_the_model(
    fresh: Workplace, built_tiny: Workplace, table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLUSCOPE_HOME", str(fresh.home))
    assert cli.main(["import", "--study", str(fresh.file), "--checkpoint", "second", str(table)]) == 0
    assert "2 layers of second are those of" in capsys.readouterr().out
    assert "activation_shards" not in fresh.materialized(), "nothing is collected"
    for layer, neuron in ((0, 3), (1, 7)):
        imported, collected = shown(page(fresh, layer, neuron)), shown(page(built_tiny, layer, neuron))
        assert len(imported[0]) == 4
        assert len(imported[2]) > 4
        assert imported == collected


def test_wrong_names_are_one_sentence(
    built_tiny: Workplace, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, sentence in (
        (["export", "--checkpoint", "none", "paper", str(tmp_path / "x")], "tiny has no tables of none; it has those of"),
        (["import", "--checkpoint", "second", str(tmp_path / "none.parquet")], "none.parquet does not exist"),
        (["import", "--checkpoint", "none", str(table)], "tiny has no checkpoint none; it has first, second"),
    ):
        assert cli.main([arguments[0], "--study", str(built_tiny.file), *arguments[1:]]) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
