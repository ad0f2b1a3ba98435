"""The command line: what it prints, what it refuses, and how it goes on after a build that was killed."""

import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import dagster as dg
import pytest

from gluscope_assets.commands import main as cli
from gluscope_assets.core.serve.server import open_server
from gluscope_assets.orchestration.resources import ProgressLines
from gluscope_assets.study.study import STUDIES_VARIABLE, load_study
from gluscope_assets_tests.conftest import Workplace
from gluscope_assets_tests.support.zoo import tiny_config


def test_a_build_ends_by_saying_where_the_site_is(tiny: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.build() == 0
    index = tiny.folder.site / "index.html"
    assert index.is_file()
    printed = capsys.readouterr().out
    assert f"open   {index.as_uri()}" in printed
    assert f"serve --study {tiny.file}" in printed


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
    assert "There is no study nothing; there are demo" in capsys.readouterr().err


def test_layers_are_numbers_and_ranges(fresh: Workplace) -> None:
    study = fresh.study.model_copy(update={"model": fresh.study.model.model_copy(update={"layers": 12})})
    assert cli._layers("0,2-4, 11", study) == [0, 2, 3, 4, 11]
    assert cli._layers(None, study) == list(range(12))


def test_a_checkpoint_is_chosen_by_name_or_key(fresh: Workplace) -> None:
    from gluscope_assets.core.model.checkpoint import resolve_checkpoint

    first, second = checkpoints = [resolve_checkpoint(options) for options in fresh.study.model.checkpoints]
    assert cli._chosen([second.key, "first"], checkpoints, fresh.study) == [first, second]
    assert cli._chosen(["second"], checkpoints, fresh.study) == [second]


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


def test_two_builds_do_not_write_at_once(fresh: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    with cli._only_build(fresh.home):
        assert fresh.build() == 2
    assert f"Another build is running in {fresh.home}" in capsys.readouterr().err


@pytest.mark.parametrize(("sent", "left"), [(signal.SIGKILL, "STARTED"), (signal.SIGINT, "FAILURE")])
def test_a_stopped_build_leaves_no_half_result_and_the_next_one_finishes(
    fresh: Workplace, tmp_path: Path, sent: signal.Signals, left: str
) -> None:
    """Stopped in the middle of the forward pass, when it holds the GPU's slot."""
    reached = tmp_path / "reached"
    code = (
        "import pathlib, signal, sys, time\n"
        "from gluscope_assets.core.collect import job as collect\n"
        "def wait(*arguments, **named):\n"
        f"    pathlib.Path({str(reached)!r}).touch()\n"
        "    time.sleep(600)\n"
        "collect.collect = wait\n"
        # A test runner in the background may have passed on that interrupts are ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from gluscope_assets.commands.main import main\n"
        "sys.exit(main(['build', '--study', *sys.argv[1:]]))\n"
    )
    part = ["--checkpoint", "first", "--layers", "0"]
    build = subprocess.Popen([sys.executable, "-c", code, str(fresh.file), *part], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 300
        while not reached.exists():
            assert build.poll() is None, "the build ended before it collected anything"
            assert time.monotonic() < deadline
            time.sleep(0.2)
        build.send_signal(sent)
        _, printed = build.communicate(timeout=60)
    finally:
        build.kill()
    if sent is signal.SIGINT:
        assert build.returncode == 130
        assert printed.splitlines()[-1] == "Stopped. What was finished is kept."
        assert "Traceback" not in printed
    with fresh.instance as instance:
        stopped = instance.get_runs(limit=1)[0]
    assert stopped.status.value == left
    assert not [name for name in fresh.files() if "shards" in name]
    assert fresh.build(*part) == 0
    with fresh.instance as instance:
        again = instance.get_run_by_id(stopped.run_id)
    assert again is not None
    assert again.status is dg.DagsterRunStatus.FAILURE
    assert (fresh.folder.site / "index.html").is_file()


def test_the_site_is_served_on_this_machine_only(tiny: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    with open_server(tiny.folder.site, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/index.html") as answer:
                assert answer.read() == (tiny.folder.site / "index.html").read_bytes()
        finally:
            server.shutdown()
            thread.join()
        assert cli.main(["serve", "--study", str(tiny.file), "--port", str(server.server_port)]) == 2
    assert "cannot be used" in capsys.readouterr().err


def test_a_site_must_be_built_before_it_is_served(fresh: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--study", str(fresh.file)]) == 2
    assert "holds no site yet; run gluscope build" in capsys.readouterr().err


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


def test_inspect_says_what_a_model_has_and_writes_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_config("qwen2_moe").save_pretrained(tmp_path / "model")
    file = tmp_path / "study.yaml"
    assert cli.main(["inspect", str(tmp_path / "model"), "--tokens", "1000", "--write", str(file)]) == 0
    said = capsys.readouterr().out
    for part in ("Qwen2MoeModel", "routed to 2 experts", "mlp.experts", "mlp.shared_expert", "FLOPs", "aggregates", "pages"):
        assert part in said
    assert load_study(file).model.layers == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["t5"], "T5Model has an encoder and a decoder; set model.stack (--stack) to one of them."),
        (["gpt2"], "GPT2Model has no gated MLP"),
        (["llama", "--tokens", "0"], "--tokens 0 is no size of a corpus; give at least 1."),
        (["./no/such"], "/no/such; give one with config.json, or a Hub id such as owner/name."),
        (["llama", "--revision", "main"], "is a folder and has no revisions; leave out --revision."),
        (["."], "has no config.json; give the folder of a saved model or a Hub id."),
    ],
)
def test_inspect_refuses_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    if not arguments[0].startswith("."):
        tiny_config(arguments[0]).save_pretrained(tmp_path / arguments[0])
    assert cli.main(["inspect", str(tmp_path / arguments[0]), *arguments[1:]]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_inspect_pins_a_hub_id_to_its_commit_and_fetches_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = tmp_path / "snapshots" / "0a1b2c3d4e"
    tiny_config("llama").save_pretrained(commit)
    asked: dict[str, object] = {}

    def download(repository: str, **options: object) -> str:
        asked.update(options)
        return str(commit)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", "owner/model", "--revision", "main", "--write", "study.yaml"]) == 0
    assert asked["revision"] == "main"
    assert not any("safetensors" in pattern for pattern in asked["allow_patterns"])
    (checkpoint,) = load_study(tmp_path / "study.yaml").model.checkpoints
    assert (checkpoint.repository, checkpoint.revision) == ("owner/model", "0a1b2c3d4e")
