"""`gluscope inspect`: what it says of a model, what it writes, and what it refuses."""

from pathlib import Path

import pytest

from gluscope_assets.commands import main as cli
from gluscope_assets.study.study import load_study
from gluscope_assets_tests.support.zoo import tiny_config


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
