"""The entry point: which commands and options there are, and how a command ends."""

import subprocess
import sys
from pathlib import Path

import pytest

import gluscope_assets
from gluscope_assets.commands import main as cli
from gluscope_assets_tests.conftest import Workplace


@pytest.mark.parametrize(
    ("typed", "arguments"),
    [
        ("build", {}),
        ("build --study mine", {"study_name": "mine"}),
        ("build --checkpoint a b --layers 0,2-3", {"checkpoint": ["a", "b"], "layers": "0,2-3"}),
        ("build --checkpoint a --study mine.yaml", {"checkpoint": ["a"], "study_name": "mine.yaml"}),
        ("build --study=mine --study other", {"study_name": "other"}),
        ("serve --study mine --port 0", {"study_name": "mine", "port": 0}),
        ("ui --port 3001", {"port": 3001}),
        ("publish --study mine --roll-back", {"study_name": "mine", "roll_back": True}),
        (
            "import --checkpoint a --study mine t.parquet",
            {"checkpoint_name": "a", "study_name": "mine", "table": Path("t.parquet")},
        ),
        ("export --study mine --license mit dataset out", {"format": "dataset", "target": Path("out"), "license": "mit"}),
        ("export paper out.parquet --checkpoint a", {"format": "paper", "target": Path("out.parquet"), "checkpoint": "a"}),
        ("studies", {}),
        ("inspect a/b --revision r --stack decoder", {"model": "a/b", "revision": "r", "stack": "decoder"}),
        ("inspect m --tokens 1000 --write s.yaml", {"model": "m", "tokens": 1000, "write": Path("s.yaml")}),
    ],
)
def test_options_are_read_as_documented(typed: str, arguments: dict[str, object]) -> None:
    command, bound, _ = cli.app.parse_args(typed.split(), exit_on_error=False, print_error=False)
    name = typed.split()[0]
    assert command.__name__ == {"import": "import_table", "inspect": "inspect_model"}.get(name, name)
    assert arguments.items() <= bound.arguments.items()


@pytest.mark.parametrize("command", [[], *([name] for name in cli.COMMANDS)])
def test_help_fits_80_columns(command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([*command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Usage: gluscope {' '.join(command)}")
    assert max(map(len, lines)) <= 80
    for name in command or cli.COMMANDS:
        assert cli.COMMANDS[name][1].partition(",")[0] in "\n".join(lines)


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"gluscope {gluscope_assets.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_what_runs_no_command_waits_for_no_library(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from gluscope_assets.commands.main import main\n"
        "main(sys.argv[1:])\n"
        "print(sorted({'dagster', 'torch', 'transformers', 'polars', 'pyarrow', 'numpy', 'pydantic'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name a command: build, serve, ui, publish, import, export, studies, inspect; gluscope --help says"),
        (["biuld"], 'Unknown command "biuld". Did you mean "build"?'),
        (["build", "--layer", "0"], "Unknown option: --layer. Did you mean --layers?"),
        (["build", "--checkpoint"], "--checkpoint requires at least 1 element. Got 0. See gluscope build --help.\n"),
        (["serve", "--port", "http"], 'unable to convert "http" into int'),
        (["export", "csv", "out"], 'Choose from: "dataset", "paper". See gluscope export --help.\n'),
        (["publish", "--no-roll-back"], "Unknown option: --no-roll-back"),
        (["import", "table.parquet"], "--checkpoint requires an argument"),
        (["inspect"], "MODEL requires an argument"),
    ],
)
def test_a_command_typed_wrong_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("gluscope: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_an_interrupt_is_130_and_an_error_of_the_program_is_shown_whole(
    fresh: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: BaseException) -> None:
        raise error

    monkeypatch.setattr("gluscope_assets.commands.studies.find_studies", lambda: fail(KeyboardInterrupt()))
    assert cli.main(["studies"]) == 130
    assert capsys.readouterr().err == "\nStopped. What was finished is kept.\n"
    monkeypatch.setattr("gluscope_assets.commands.studies.find_studies", lambda: fail(ZeroDivisionError("of the program")))
    with pytest.raises(ZeroDivisionError, match="of the program"):
        cli.main(["studies"])
