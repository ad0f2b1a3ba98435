"""Arguments that several commands take: what names what, and how a wrong name is refused."""

import pytest

from gluscope_assets.commands import main as cli
from gluscope_assets.commands.arguments import named_checkpoints, named_layers
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets_tests.conftest import Workplace


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "0,2"], "--layers 0,2 names layers that tiny does not have; it has 0 to 1."),
        (["--layers", "1-0"], "--layers 1-0 names layers that tiny does not have; it has 0 to 1."),
        (["--layers", "first"], "--layers first is not a list of layers; write it like 0,2-3."),
        (["--checkpoint", "fifth"], "tiny has no checkpoint fifth; it has first, second."),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    fresh: Workplace, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert fresh.build(*arguments) == 2
    assert capsys.readouterr().err == f"gluscope: {message}\n"
    assert not fresh.home.exists()


def test_an_unknown_study_is_one_sentence(fresh: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "--study", "nothing"]) == 2
    assert (
        "There is no study nothing; give one of demo, or a study file, or name its file in $GLUSCOPE_STUDIES."
        in capsys.readouterr().err
    )


def test_layers_are_numbers_and_ranges(fresh: Workplace) -> None:
    study = fresh.study.model_copy(update={"model": fresh.study.model.model_copy(update={"layers": 12})})
    assert named_layers("0,2-4, 11", study) == [0, 2, 3, 4, 11]
    assert named_layers(None, study) == list(range(12))


def test_a_checkpoint_is_chosen_by_name_or_key(fresh: Workplace) -> None:
    first, second = checkpoints = [resolve_checkpoint(options) for options in fresh.study.model.checkpoints]
    assert named_checkpoints([second.key, "first"], checkpoints, fresh.study) == [first, second]
    assert named_checkpoints(["second"], checkpoints, fresh.study) == [second]
