"""What a checkpoint is: its key, what is fetched of it, and the one sentence each refusal of the Hub gets."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.core.options import CheckpointOptions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    return tmp_path


def test_the_key_is_the_name_and_the_hash_of_the_weights(folder: Path) -> None:
    options = CheckpointOptions(name="step-1", path=folder)
    checkpoint = resolve_checkpoint(options)
    assert checkpoint.key == f"step-1-{checkpoint.weights_hash[:7]}"
    assert resolve_checkpoint(options) == checkpoint
    save_file({"weight": torch.ones(2)}, folder / "model.safetensors")
    assert resolve_checkpoint(options).weights_hash != checkpoint.weights_hash


HUB = CheckpointOptions(name="hub", repository="nobody/nothing", revision="main")


def test_an_unreachable_repository_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match="nobody/nothing at main is not in the local cache and the Hub cannot be reached"
    ) as raised:
        resolve_checkpoint(HUB)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, "nobody/nothing is gated; accept its terms on the Hub and set HF_TOKEN"),
        (errors.RepositoryNotFoundError, "the Hub has no nobody/nothing that you may read; check the id, or set HF_TOKEN"),
        (errors.RevisionNotFoundError, "nobody/nothing has no revision main; give a commit, tag or branch"),
        (errors.HfHubHTTPError, "nobody/nothing at main cannot be fetched from the Hub .first line.; check its id"),
    ],
)
def test_what_the_hub_answers_is_one_sentence(monkeypatch: pytest.MonkeyPatch, kind: type[Exception], message: str) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise kind("first line\nsecond line", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(InputError, match=message) as raised:
        resolve_checkpoint(HUB)
    assert "\n" not in str(raised.value)


def test_only_config_tokenizer_and_safetensors_are_fetched_and_from_the_revision(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    asked: dict[str, object] = {}

    def download(repository: str, **options: object) -> str:
        asked.update(repository=repository, **options)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve_checkpoint(HUB).folder == folder
    assert (asked["repository"], asked["revision"]) == ("nobody/nothing", "main")
    patterns = asked["allow_patterns"]
    assert {"config.json", "tokenizer.json", "*.safetensors"} <= set(patterns)
    assert not any(pattern.endswith((".bin", ".pt", ".py", ".pkl", "*")) for pattern in patterns)
