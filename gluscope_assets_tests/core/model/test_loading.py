"""Opening a checkpoint: what is read from its folder, and the one sentence each misfit gets."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.anatomy import look_through
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.core.model.loading import check_checkpoint, load_model, read_shape
from gluscope_assets.core.options import CheckpointOptions
from gluscope_assets_tests.support.zoo import tiny_model

CONFIG = LlamaConfig(
    vocab_size=12, hidden_size=8, intermediate_size=6, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
)


def save_tokenizer(folder: Path, tokens: int) -> None:
    tokenizer = Tokenizer(models.WordLevel({f"t{number}": number for number in range(tokens)}, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="t0").save_pretrained(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    LlamaForCausalLM(CONFIG).save_pretrained(tmp_path / "model")
    save_tokenizer(tmp_path / "model", 12)
    return tmp_path / "model"


def options(folder: Path) -> CheckpointOptions:
    return CheckpointOptions(name="step-1", path=folder)


def test_the_shape_is_read_without_weights(folder: Path) -> None:
    checkpoint = resolve_checkpoint(options(folder))
    for path in folder.glob("*.safetensors"):
        path.write_bytes(b"")
    shape = read_shape(checkpoint)
    assert shape.layers == (0, 1)
    assert [(mlp.width, mlp.activation) for mlp in shape.mlps] == [(6, "silu")] * 2
    assert shape.vocabulary == 12


def test_the_model_is_loaded_without_its_head_in_the_dtype_asked_for(folder: Path) -> None:
    model = load_model(resolve_checkpoint(options(folder)), "bfloat16", "cpu")
    assert type(model).__name__ == "LlamaModel"
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert [(mlp.layer, mlp.width) for mlp in look_through(model).mlps] == [(0, 6), (1, 6)]


def test_missing_weights_are_refused_not_filled_in(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.gate_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match="lack layers.1.mlp.gate_proj.weight; save all weights"):
        load_model(resolve_checkpoint(options(folder)), "float32", "cpu")


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 7}))
    with pytest.raises(InputError, match="cannot be loaded") as raised:
        load_model(resolve_checkpoint(options(folder)), "float32", "cpu")
    assert "\n" not in str(raised.value)


def test_another_layer_count_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="has gated MLPs in 2 layers and the study says 3 layers; set model.layers to 2"):
        check_checkpoint(resolve_checkpoint(options(folder)), layers=(0, 1, 2))
    with pytest.raises(
        InputError, match="has gated MLPs in 2 layers and the study says the layers 0, 3; set model.layers to 2"
    ):
        check_checkpoint(resolve_checkpoint(options(folder)), layers=(0, 3))


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(folder: Path) -> None:
    save_tokenizer(folder, 13)
    with pytest.raises(InputError, match="has 13 tokens and the model's vocabulary only 12"):
        check_checkpoint(resolve_checkpoint(options(folder)), layers=(0, 1))


def test_a_model_without_a_gated_mlp_is_refused_by_name(tmp_path: Path) -> None:
    GPT2Model(GPT2Config(vocab_size=12, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="GPT2Model has no gated MLP: .* only the linear parts c_attn, c_fc, c_proj"):
        read_shape(resolve_checkpoint(options(tmp_path)))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no .*safetensors"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_incomplete_folders_are_refused(folder: Path, missing: str, message: str) -> None:
    (folder / missing).unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match=message) as raised:
        check_checkpoint(resolve_checkpoint(options(folder)), layers=(0, 1))
    assert "\n" not in str(raised.value)


def test_an_unknown_architecture_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no_such_model"}))
    with pytest.raises(InputError, match="config.json .* cannot be used"):
        read_shape(resolve_checkpoint(options(folder)))


def test_code_of_a_checkpoint_is_never_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    own = {"model_type": "made_up", "auto_map": {"AutoConfig": "configuration.Own", "AutoModel": "modeling.Own"}}
    (folder / "config.json").write_text(json.dumps({**config, **own}))
    (folder / "configuration.py").write_text("raise SystemExit('ran')")
    with pytest.raises(InputError, match="needs code of its own, which is never run; choose a model"):
        read_shape(resolve_checkpoint(options(folder)))


def test_a_model_whose_layers_run_several_times_is_refused(tmp_path: Path) -> None:
    tiny_model("hrm_text").save_pretrained(tmp_path)
    checkpoint = resolve_checkpoint(options(tmp_path))
    with pytest.raises(InputError, match=r"runs \S+mlp \d times in one pass, .* choose a model whose layers run once"):
        check_checkpoint(checkpoint, read_shape(checkpoint).layers)


def test_a_model_that_spreads_over_devices_is_loaded_whole(folder: Path) -> None:
    checkpoint = resolve_checkpoint(options(folder))
    spread, whole = (load_model(checkpoint, "float32", "cpu", device_map) for device_map in ("auto", None))
    for (name, one), (_, other) in zip(spread.named_parameters(), whole.named_parameters(), strict=True):
        assert torch.equal(one, other), name
