"""Single tensors: each is to the byte what transformers loads, and no more is read than it is made of."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.core_model_loading import ConversionOps, Interleave, WeightConverter, WeightRenaming, WeightTransform

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model import stored_tensors as tensors
from gluscope_assets.core.model.checkpoint import Checkpoint
from gluscope_assets.core.model.loading import base_model
from gluscope_assets.core.model.stored_tensors import StoredTensors
from gluscope_assets_tests.support.zoo import tiny_config

FULL_MODELS: dict[str, Any] = {
    "t5": AutoModelForSeq2SeqLM,
    "bert": AutoModelForMaskedLM,
    "modernbert": AutoModelForMaskedLM,
    "gemma3": AutoModelForImageTextToText,
    "llama4": AutoModelForImageTextToText,
    "inkling_mm_model": AutoModelForImageTextToText,
    "qwen3_vl_moe": AutoModelForImageTextToText,
    "ernie4_5_vl_moe": AutoModelForImageTextToText,
}
"""The classes with a head of types that have no causal language model."""

STORED_NAMES = {
    "llama": "model.layers.1.mlp.gate_proj.weight",
    "phi3": "model.layers.1.mlp.gate_up_proj.weight",
    "mixtral": "model.layers.1.block_sparse_moe.experts.3.w1.weight",
    "qwen3_moe": "model.layers.1.mlp.experts.3.gate_proj.weight",
    "deepseek_v3": "model.layers.1.mlp.experts.3.gate_proj.weight",
    "gpt_oss": "model.layers.1.mlp.experts.gate_up_proj",
    "olmoe": "model.layers.1.mlp.experts.3.gate_proj.weight",
    "gemma3_text": "model.layers.1.mlp.gate_proj.weight",
    "llama4_text": "model.layers.1.feed_forward.experts.gate_up_proj",
    "dbrx": "transformer.blocks.1.ffn.experts.mlp.w1",
    "jetmoe": "model.layers.1.mlp.input_linear.weight",
    "granitemoeshared": "model.layers.1.block_sparse_moe.input_linear.weight",
    "t5": "encoder.block.1.layer.1.DenseReluDense.wi_0.weight",
    "modernbert": "model.layers.1.mlp.Wi.weight",
    "jamba": "model.layers.1.feed_forward.experts.3.gate_proj.weight",
    "lfm2_moe": "model.layers.1.feed_forward.experts.3.w1.weight",
    "flex_olmo": "model.layers.1.mlp.experts.3.gate_proj.weight",
    "qwen3_5_moe_text": "model.layers.1.mlp.experts.3.gate_proj.weight",
    "inkling_mm_model": "model.llm.layers.1.mlp.experts.w13_weight",
    "llama4": "language_model.model.layers.1.feed_forward.experts.gate_up_proj",
    "gemma3": "language_model.model.layers.1.mlp.gate_proj.weight",
    "ernie4_5_vl_moe": "model.layers.1.mlp.experts.3.gate_proj.weight",
}
"""A weight of a gated MLP as each type stores it, which is what a test of the type tests."""


def config_of(model_type: str, **arguments: object) -> PreTrainedConfig:
    config = tiny_config(model_type)
    if model_type == "ernie4_5_vl_moe":
        config.text_config.rope_parameters = {"rope_theta": 10000.0, "rope_type": "default", "mrope_section": [1, 1, 2]}
    for name, value in arguments.items():
        setattr(config, name, value)
    return config


def full_model(model_type: str, **arguments: object) -> PreTrainedModel:
    """A random model with its head."""
    torch.manual_seed(0)
    model: PreTrainedModel = FULL_MODELS.get(model_type, AutoModelForCausalLM).from_config(config_of(model_type, **arguments))
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms and biases would be all alike.
            parameter.normal_()
    return model


def open_stored(folder: Path) -> StoredTensors:
    checkpoint = Checkpoint("step-1", folder, "0")
    return StoredTensors(checkpoint, base_model(checkpoint))


def stored_names(folder: Path) -> set[str]:
    return {name for path in folder.glob("*.safetensors") for name in load_file(path)}


def change(folder: Path, changed: Callable[[str, Tensor], tuple[str, Tensor] | None]) -> None:
    """Write the one file of a checkpoint anew, with tensors renamed, changed or left out."""
    path = folder / "model.safetensors"
    pairs = [pair for name, tensor in load_file(path).items() if (pair := changed(name, tensor)) is not None]
    save_file({name: tensor.contiguous() for name, tensor in pairs}, path, {"format": "pt"})


def rename(folder: Path, **replacements: str) -> None:
    """Replace in all stored names. `__` in what is replaced stands for a dot."""

    def renamed(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        for before, after in replacements.items():
            name = name.replace(before.replace("__", "."), after)
        return name, tensor

    change(folder, renamed)


def leave_out(folder: Path, *names: str) -> None:
    assert set(names) <= stored_names(folder)
    change(folder, lambda name, tensor: None if name in names else (name, tensor))


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Same dtype, shape and bytes."""
    assert (found.dtype, found.shape, found.device.type) == (expected.dtype, expected.shape, "cpu")
    assert torch.equal(found.flatten().view(torch.uint8), expected.flatten().view(torch.uint8))


def assert_reads_what_transformers_loads(folder: Path) -> StoredTensors:
    """Compare all parameters and buffers, and of those with three axes each expert."""
    loaded, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    stored = open_stored(folder)
    for name, expected in loaded.state_dict().items():
        assert_same(stored.read(name), expected)
        for expert in range(len(expected)) if expected.dim() == 3 else ():
            assert_same(stored.read_expert(name, expert), expected[expert])
    return stored


class Reads:
    """What was read: files opened, and of which stored tensors which part."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.parts: list[tuple[str, object]] = []

    def open(self, path: Path, framework: str) -> Any:
        self.files.append(path.name)
        return RecordedFile(safetensors.safe_open(path, framework=framework), self)

    def forget(self) -> None:
        self.files.clear()
        self.parts.clear()


class RecordedFile:
    """An open file that has no way to a tensor but these."""

    def __init__(self, file: Any, reads: Reads) -> None:
        self.file, self.reads = file, reads

    def keys(self) -> list[str]:
        return list(self.file.keys())

    def get_slice(self, name: str) -> "RecordedSlice":
        return RecordedSlice(name, self.file.get_slice(name), self.reads)


class RecordedSlice:
    def __init__(self, name: str, part: Any, reads: Reads) -> None:
        self.name, self.part, self.reads = name, part, reads

    def get_shape(self) -> list[int]:
        shape: list[int] = self.part.get_shape()
        return shape

    def __getitem__(self, index: object) -> Tensor:
        self.reads.parts.append((self.name, index))
        tensor: Tensor = self.part[index]
        return tensor


class ReverseExperts(ConversionOps):
    """A conversion of which nothing is known but that it can be done."""

    def convert(self, input_dict: dict[str, Any], *_: object, **__: object) -> dict[str, Any]:
        return {pattern: tensors[0].flip(0) for pattern, tensors in input_dict.items()}


@pytest.fixture
def set_conversions(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give transformers other conversions than its own, for loading and for reading."""

    def set_them(*conversions: WeightTransform) -> None:
        # Both modules hold the function's name, and are attributes of the package only once something has imported them.
        for module in map(importlib.import_module, ("transformers.conversion_mapping", "transformers.modeling_utils")):
            monkeypatch.setattr(module, "get_model_conversion_mapping", lambda *_, **__: list(conversions))

    return set_them


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    recorded = Reads()
    monkeypatch.setattr(tensors, "safe_open", recorded.open)
    return recorded


# What is read


@pytest.mark.parametrize("model_type", STORED_NAMES)
def test_every_parameter_is_what_transformers_loads(model_type: str, tmp_path: Path) -> None:
    full_model(model_type).save_pretrained(tmp_path)
    assert STORED_NAMES[model_type] in stored_names(tmp_path)
    assert_reads_what_transformers_loads(tmp_path)


@pytest.mark.parametrize("model_type", ["llama", "mixtral"])
def test_a_base_model_saved_without_its_head_is_read(model_type: str, tmp_path: Path) -> None:
    full_model(model_type).base_model.save_pretrained(tmp_path)
    assert "embed_tokens.weight" in stored_names(tmp_path)
    assert assert_reads_what_transformers_loads(tmp_path).find("lm_head.weight") is None


@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe"])
def test_several_files_are_read_and_only_those_needed_are_opened(model_type: str, tmp_path: Path, reads: Reads) -> None:
    full_model(model_type).save_pretrained(tmp_path, max_shard_size="50KB")
    where = json.loads((tmp_path / "model.safetensors.index.json").read_bytes())["weight_map"]
    assert len(set(where.values())) > 2
    stored = open_stored(tmp_path)
    assert reads.files == []
    stored.read("norm.weight")
    stored.read("norm.weight")
    assert reads.files == [where["model.norm.weight"]]
    assert_reads_what_transformers_loads(tmp_path)


def test_tensors_keep_the_stored_dtype(tmp_path: Path) -> None:
    model = full_model("mixtral").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    stored = assert_reads_what_transformers_loads(tmp_path)
    change(tmp_path, lambda name, tensor: (name, tensor.float() if name == "model.norm.weight" else tensor))
    stored = open_stored(tmp_path)
    assert stored.read("norm.weight").dtype == torch.float32
    assert stored.read("layers.0.mlp.experts.gate_up_proj").dtype == torch.bfloat16


# Other names and forms than those that transformers saves


def test_old_names_of_norms_are_understood(tmp_path: Path) -> None:
    full_model("bert").base_model.save_pretrained(tmp_path)
    # A base model has a pooler, which the one with a head does not.
    rename(tmp_path, LayerNorm__weight="LayerNorm.gamma", LayerNorm__bias="LayerNorm.beta")
    leave_out(tmp_path, *(name for name in stored_names(tmp_path) if name.startswith("pooler")))
    stored = open_stored(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    norms = [name for name in loaded.state_dict() if "LayerNorm" in name]
    assert norms
    for name in norms:
        assert_same(stored.read(name), loaded.state_dict()[name])


def test_the_prefixes_of_a_model_with_other_towers_are_understood(tmp_path: Path) -> None:
    model = full_model("gemma3", tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    for head in ("language_model.lm_head.weight", "lm_head.weight"):
        assert head in stored_names(tmp_path)
        stored = assert_reads_what_transformers_loads(tmp_path)
        found = stored.find("lm_head.weight")
        assert found is not None
        assert_same(found, model.lm_head.weight.detach())
        rename(
            tmp_path,
            language_model__model__="model.language_model.",
            language_model__lm_head="lm_head",
            vision_tower__="model.vision_tower.",
            multi_modal_projector__="model.multi_modal_projector.",
        )


def test_experts_that_are_stored_in_one_tensor_are_understood_where_they_usually_are_not(tmp_path: Path, reads: Reads) -> None:
    model = full_model("mixtral")
    model.save_pretrained(tmp_path)
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors")
    stored = assert_reads_what_transformers_loads(tmp_path)
    reads.forget()
    stored.read_expert("layers.1.mlp.experts.down_proj", 2)
    assert reads.parts == [("model.layers.1.mlp.experts.down_proj", slice(2, 3))]


def test_experts_that_are_stored_transposed_are_transposed_one_by_one(tmp_path: Path, reads: Reads) -> None:
    full_model("qwen3_vl_moe").save_pretrained(tmp_path)
    assert_reads_what_transformers_loads(tmp_path)
    change(tmp_path, lambda name, tensor: (name, tensor.transpose(1, 2) if ".experts." in name else tensor))
    stored = assert_reads_what_transformers_loads(tmp_path)
    reads.forget()
    stored.read_expert("language_model.layers.1.mlp.experts.gate_up_proj", 2)
    assert reads.parts == [("model.language_model.layers.1.mlp.experts.gate_up_proj", slice(2, 3))]


def test_of_two_sets_of_files_the_one_that_transformers_loads_is_read(tmp_path: Path) -> None:
    full_model("llama").save_pretrained(tmp_path)
    save_file({"tok_embeddings.weight": torch.zeros(2, 2)}, tmp_path / "consolidated.safetensors")
    index = {"metadata": {}, "weight_map": {"tok_embeddings.weight": "consolidated.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert assert_reads_what_transformers_loads(tmp_path).find("tok_embeddings.weight") is None


def test_of_two_tensors_for_one_parameter_the_one_that_transformers_loads_is_read(tmp_path: Path) -> None:
    full_model("llama").save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    save_file({**stored, "norm.weight": torch.zeros(32)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert_reads_what_transformers_loads(tmp_path)


def test_a_name_that_is_right_before_renaming_is_kept(tmp_path: Path, set_conversions: Callable[..., None]) -> None:
    full_model("llama").base_model.save_pretrained(tmp_path)
    set_conversions(WeightRenaming(r"^layers\.", "blocks."))
    assert_reads_what_transformers_loads(tmp_path)


@pytest.mark.parametrize("operation", [ReverseExperts(), Interleave(dim=0)])
def test_experts_that_a_conversion_mixes_are_not_taken_apart_before_it(
    operation: ConversionOps, tmp_path: Path, set_conversions: Callable[..., None]
) -> None:
    full_model("gpt_oss").save_pretrained(tmp_path)
    set_conversions(WeightConverter("experts.down_proj", "experts.down_proj", [operation]))
    stored = assert_reads_what_transformers_loads(tmp_path)
    as_stored = load_file(tmp_path / "model.safetensors")["model.layers.1.mlp.experts.down_proj"]
    assert not torch.equal(stored.read("layers.1.mlp.experts.down_proj"), as_stored)


# Ties and heads


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_is_found_if_it_is_stored(tied: bool, tmp_path: Path) -> None:
    model = full_model("llama", tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    stored = assert_reads_what_transformers_loads(tmp_path)
    found = stored.find("lm_head.weight")
    assert stored.find("embed_out.weight") is None
    if tied:
        assert found is None
    else:
        assert found is not None
        assert_same(found, model.lm_head.weight.detach())


@pytest.mark.parametrize("model_type", ["llama4", "inkling_mm_model"])
def test_a_head_is_found_by_its_own_name_whatever_it_is_called(model_type: str, tmp_path: Path) -> None:
    model = full_model(model_type)
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in stored_names(tmp_path)
    found = open_stored(tmp_path).find("lm_head.weight")
    assert found is not None
    assert_same(found, model.get_output_embeddings().weight.detach())


@pytest.mark.parametrize("prefix", ["", "text."])
def test_a_head_is_found_under_what_the_embedding_is_stored_under(
    prefix: str, tmp_path: Path, set_conversions: Callable[..., None]
) -> None:
    full_model("llama").save_pretrained(tmp_path)
    stored_before = load_file(tmp_path / "model.safetensors")
    prefixed = {prefix + name: tensor for name, tensor in stored_before.items()}
    save_file({"tower.lm_head.weight": torch.zeros(1), **prefixed}, tmp_path / "model.safetensors", {"format": "pt"})
    set_conversions(WeightRenaming(r"^text\.model\.", "model."))
    found = open_stored(tmp_path).find("lm_head.weight")
    assert found is not None
    assert_same(found, stored_before["lm_head.weight"])


def test_a_head_that_is_stored_in_place_of_the_embedding_is_the_embedding_if_they_are_tied(tmp_path: Path) -> None:
    model = full_model("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    rename(tmp_path, model__embed_tokens="lm_head")
    assert_same(open_stored(tmp_path).read("embed_tokens.weight"), model.lm_head.weight.detach())
    config = json.loads((tmp_path / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(InputError, match="embed_tokens.weight"):
        open_stored(tmp_path).read("embed_tokens.weight")


@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"])
def test_a_tied_embedding_is_read_from_whichever_name_is_stored(kept: str, tmp_path: Path) -> None:
    full_model("t5").save_pretrained(tmp_path)
    change(tmp_path, lambda name, tensor: (kept if name == "shared.weight" else name, tensor))
    assert kept in stored_names(tmp_path)
    assert_reads_what_transformers_loads(tmp_path)


# How little is read


def test_of_a_dense_model_only_the_one_tensor_is_read(tmp_path: Path, reads: Reads) -> None:
    full_model("llama").save_pretrained(tmp_path)
    stored = open_stored(tmp_path)
    assert reads.parts == []
    stored.read("layers.1.mlp.up_proj.weight")
    assert reads.parts == [("model.layers.1.mlp.up_proj.weight", ...)]
    reads.forget()
    stored.find("lm_head.weight")
    assert reads.parts == [("lm_head.weight", ...)]


def test_of_experts_that_are_stored_apart_only_one_is_read(tmp_path: Path, reads: Reads) -> None:
    full_model("mixtral").save_pretrained(tmp_path)
    stored = open_stored(tmp_path)
    stored.read_expert("layers.1.mlp.experts.gate_up_proj", 2)
    prefix = "model.layers.1.block_sparse_moe.experts"
    assert sorted(name for name, _ in reads.parts) == [f"{prefix}.2.w1.weight", f"{prefix}.2.w3.weight"]
    reads.forget()
    stored.read("layers.1.mlp.experts.down_proj")
    assert [name for name, _ in reads.parts] == [f"{prefix}.{expert}.w2.weight" for expert in range(6)]


def test_of_experts_that_are_stored_together_only_one_is_read(tmp_path: Path, reads: Reads) -> None:
    full_model("gpt_oss").save_pretrained(tmp_path)
    stored = open_stored(tmp_path)
    stored.read_expert("layers.1.mlp.experts.gate_up_proj", 2)
    assert reads.parts == [("model.layers.1.mlp.experts.gate_up_proj", slice(2, 3))]


def test_numbers_order_the_experts_as_numbers(tmp_path: Path) -> None:
    full_model("qwen3_moe", num_experts=11).save_pretrained(tmp_path)
    assert_reads_what_transformers_loads(tmp_path)


# Errors


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    full_model("llama").save_pretrained(tmp_path)
    leave_out(tmp_path, "model.layers.1.mlp.up_proj.weight")
    stored = open_stored(tmp_path)
    assert stored.find("layers.1.mlp.up_proj.weight") is None
    with pytest.raises(InputError) as raised:
        stored.read("layers.1.mlp.up_proj.weight")
    assert str(raised.value) == (
        f"Checkpoint step-1: the weights in {tmp_path} lack layers.1.mlp.up_proj.weight; save all weights of the model."
    )


@pytest.mark.parametrize("missing", [["w1"], ["w1", "w3"]])
def test_a_missing_expert_shifts_no_other(missing: list[str], tmp_path: Path) -> None:
    full_model("mixtral").save_pretrained(tmp_path)
    leave_out(tmp_path, *(f"model.layers.1.block_sparse_moe.experts.2.{name}.weight" for name in missing))
    stored = open_stored(tmp_path)
    for read in (stored.read, lambda name: stored.read_expert(name, 3)):
        with pytest.raises(
            InputError, match=r"^Checkpoint step-1: the tensors for layers\.1\.mlp\.experts\.gate_up_proj in .*"
        ):
            read("layers.1.mlp.experts.gate_up_proj")


def test_weights_of_another_config_are_refused(tmp_path: Path) -> None:
    full_model("llama").save_pretrained(tmp_path)
    change(tmp_path, lambda name, tensor: (name, tensor[:-1] if name == "model.norm.weight" else tensor))
    with pytest.raises(InputError, match=r"norm\.weight .* make \[31\] instead of \[32\]"):
        open_stored(tmp_path).read("norm.weight")


@pytest.mark.parametrize("experts", [5, 7])
def test_another_number_of_experts_is_refused(experts: int, tmp_path: Path) -> None:
    full_model("gpt_oss").save_pretrained(tmp_path)
    full_model("gpt_oss", num_local_experts=experts).config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"make \[6, .* instead of \[{experts}, "):
        open_stored(tmp_path).read_expert("layers.1.mlp.experts.down_proj", 2)


def test_an_expert_that_there_is_not_is_a_programming_error(tmp_path: Path) -> None:
    full_model("mixtral").save_pretrained(tmp_path)
    stored = open_stored(tmp_path)
    for expert in (-1, 6):
        with pytest.raises(IndexError, match="has 6 experts"):
            stored.read_expert("layers.1.mlp.experts.down_proj", expert)


@pytest.mark.parametrize("inner", [False, True])
def test_a_quantized_checkpoint_is_refused_by_its_method(inner: bool, tmp_path: Path) -> None:
    model_type = "gemma3" if inner else "llama"
    full_model(model_type).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_bytes())
    (config["text_config"] if inner else config)["quantization_config"] = {"quant_method": "mxfp4"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"^Checkpoint step-1: .* are quantized \(mxfp4\); use an unquantized checkpoint\.$"):
        open_stored(tmp_path)


def test_files_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    full_model("llama").save_pretrained(tmp_path, max_shard_size="50KB")
    where = json.loads((tmp_path / "model.safetensors.index.json").read_bytes())["weight_map"]
    path = tmp_path / where["model.norm.weight"]
    stored = open_stored(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=rf"{path.name} cannot be read .*; copy it again"):
        stored.read("norm.weight")
    path.unlink()
    with pytest.raises(InputError, match=rf"{path.name} cannot be read .*; copy it again"):
        stored.read("norm.weight")
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(InputError, match=r"index\.json cannot be read .*; copy it again"):
        open_stored(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match="has no model.safetensors and no index of such files"):
        open_stored(tmp_path)


def test_a_tensor_that_the_index_names_and_its_file_lacks_is_reported(tmp_path: Path) -> None:
    full_model("llama").save_pretrained(tmp_path, max_shard_size="50KB")
    index = tmp_path / "model.safetensors.index.json"
    where = json.loads(index.read_bytes())["weight_map"]
    other = next(file for file in where.values() if file != where["model.norm.weight"])
    index.write_text(json.dumps({"metadata": {}, "weight_map": {**where, "model.norm.weight": other}}))
    with pytest.raises(InputError, match=other):
        open_stored(tmp_path).read("norm.weight")
