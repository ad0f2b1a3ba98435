"""Checks: which layers a run's checks look at."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gluscope_assets.core.paths import StudyFolder
from gluscope_assets.orchestration.checks import built_layers
from gluscope_assets_tests.conftest import Workplace


def test_a_run_that_names_no_partition_checks_layers_of_any_number(built_tiny: Workplace, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    for layer in (3, 99, 100, 101):
        folder.aggregate("step-0000000", layer).mkdir(parents=True)
        folder.tables("step-0000000", layer).statistics.touch()
    context: Any = SimpleNamespace(run=SimpleNamespace(tags={}), instance=None)
    layers = built_layers(built_tiny.study, folder, context)
    assert layers == [("step-0000000", layer) for layer in (3, 99, 100, 101)]
