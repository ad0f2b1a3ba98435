"""Weights against float64: vectors of many families, cosines, orientation, classes, baselines and token lists."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, LlamaConfig, LlamaForCausalLM

from gluscope_assets.core.files import read_provenance
from gluscope_assets.core.model import weights
from gluscope_assets.core.model.checkpoint import Checkpoint, resolve_checkpoint
from gluscope_assets.core.model.gated_mlp import Stack
from gluscope_assets.core.model.stored_tensors import StoredTensors
from gluscope_assets.core.model.weights import (
    NeuronVectors,
    classify,
    closed_form,
    fold_of,
    orientation,
    random_baseline,
    ranked_tokens,
    write_neuron_weights,
)
from gluscope_assets.core.options import CheckpointOptions
from gluscope_assets_tests.support.zoo import tiny_config, tiny_model


@pytest.mark.parametrize("tied", [True, False])
def test_a_small_model_agrees_with_float64(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=8, intermediate_size=6, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        torch.nn.init.uniform_(layer.post_attention_layernorm.weight, 0.5, 1.5)
    torch.nn.init.uniform_(model.model.norm.weight, 0.5, 1.5)
    model.save_pretrained(tmp_path / "model")
    checkpoint = resolve_checkpoint(CheckpointOptions(name="small", path=tmp_path / "model"))
    tables = write_neuron_weights(checkpoint, [1], lambda layer: tmp_path / f"{layer}.parquet", {})
    rows = tables[1].to_pylist()

    layer = model.model.layers[1]
    scale = layer.post_attention_layernorm.weight.double()
    gate, in_ = layer.mlp.gate_proj.weight.double() * scale, layer.mlp.up_proj.weight.double() * scale
    out = layer.mlp.down_proj.weight.double().T
    promoted = out @ (model.lm_head.weight.double() * model.model.norm.weight.double()).T
    read = gate @ model.model.embed_tokens.weight.double().T
    for neuron, row in enumerate(rows):
        vectors = {"gate": gate[neuron], "in": in_[neuron], "out": out[neuron]}
        for first, second in (("gate", "in"), ("gate", "out"), ("in", "out")):
            expected = torch.cosine_similarity(vectors[first], vectors[second], dim=0).item()
            assert row[f"cos_{first}_{second}"] == pytest.approx(expected, abs=1e-6)
        assert row["orientation"] == (-1 if vectors["gate"] @ vectors["in"] < 0 else 1)
        assert row["norm_out"] == pytest.approx(out[neuron].norm().item(), rel=1e-6)
        for name, scores, largest in (
            ("promoted", promoted, True),
            ("suppressed", promoted, False),
            ("gate_positive", read, True),
        ):
            values, tokens = scores[neuron].topk(10, largest=largest)
            assert [entry["token"] for entry in row[name]] == tokens.tolist()
            np.testing.assert_allclose([entry["score"] for entry in row[name]], values.detach(), rtol=1e-5)


def test_orientation_counts_zero_as_positive() -> None:
    assert orientation(torch.tensor([[1.0], [1.0], [0.0]]), torch.tensor([[2.0], [-2.0], [3.0]])).tolist() == [1, -1, 1]


@pytest.mark.parametrize(
    ("gate_in", "gate_out", "in_out", "expected"),
    [
        (0.9, 0.9, 0.9, ("strengthening", False)),
        (0.0, 0.0, 0.9, ("conditional strengthening", False)),
        (-0.9, 0.9, -0.9, ("weakening", False)),
        (0.9, 0.9, -0.9, ("weakening", True)),
        (0.0, 0.0, -0.9, ("conditional weakening", False)),
        (0.9, 0.0, -0.9, ("conditional weakening", True)),
        (0.0, 0.9, 0.0, ("proportional change", False)),
        (0.9, -0.9, 0.5, ("proportional change", True)),
        (0.9, 0.5, 0.5, ("orthogonal output", False)),
    ],
)
def test_classes_follow_the_papers_table(gate_in: float, gate_out: float, in_out: float, expected: tuple[str, bool]) -> None:
    assert classify(gate_in, gate_out, in_out) == expected


# Families


def saved(folder: Path, model_type: str) -> tuple[Checkpoint, Any]:
    """A tiny model of a type with random weights, saved with its head, and the model."""
    base = tiny_model(model_type)
    whole = (
        AutoModelForSeq2SeqLM
        if model_type == "t5"
        else AutoModelForMaskedLM
        if model_type == "modernbert"
        else AutoModelForCausalLM
    )
    torch.manual_seed(0)
    model = whole.from_config(tiny_config(model_type)).float().eval()
    model.base_model.load_state_dict(base.state_dict(), strict=False)
    model.save_pretrained(folder / model_type)
    return resolve_checkpoint(CheckpointOptions(name=model_type, path=folder / model_type)), model


def rows_of(checkpoint: Checkpoint, folder: Path, layer: int, stack: Stack | None = None) -> list[dict[str, Any]]:
    destination = folder / f"{checkpoint.name}-{layer}.parquet"
    return write_neuron_weights(checkpoint, [layer], lambda _: destination, {}, stack)[layer].to_pylist()


def assert_cosines(rows: list[dict[str, Any]], gate: Tensor, in_: Tensor, out: Tensor) -> None:
    """The rows' cosines, norms, orientation and class, of vectors [neurons, hidden] in float64."""
    assert len(rows) == len(gate)
    for row, *vectors in zip(rows, gate, in_, out, strict=True):
        named = dict(zip(("gate", "in", "out"), vectors, strict=True))
        for first, second in (("gate", "in"), ("gate", "out"), ("in", "out")):
            expected = float(named[first] @ named[second] / (named[first].norm() * named[second].norm()))
            assert row[f"cos_{first}_{second}"] == pytest.approx(expected, abs=2e-6)
        for name, vector in named.items():
            assert row[f"norm_{name}"] == pytest.approx(float(vector.norm()), rel=1e-5)
        assert row["orientation"] == (-1 if named["gate"] @ named["in"] < 0 else 1)
        assert (row["class"], row["atypical"]) == classify(*(row[f"cos_{pair}"] for pair in ("gate_in", "gate_out", "in_out")))


def doubles(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().double() for tensor in tensors)


def test_rms_norms_with_one_plus_w_before_and_after(tmp_path: Path) -> None:
    """Gemma 2: both norms scale by 1 + w; the one after the MLP scales what w_out writes."""
    checkpoint, model = saved(tmp_path, "gemma2")
    layer = model.model.layers[1]
    before, after = doubles(1 + layer.pre_feedforward_layernorm.weight, 1 + layer.post_feedforward_layernorm.weight)
    gate, in_, out = doubles(layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, layer.mlp.down_proj.weight)
    assert_cosines(rows_of(checkpoint, tmp_path, 1), gate * before, in_ * before, out.T * after)


def test_layer_norms_scale_and_centre(tmp_path: Path) -> None:
    """StableLM: what a LayerNorm's output is multiplied with meets the residual stream without its mean."""
    checkpoint, model = saved(tmp_path, "stablelm")
    layer = model.model.layers[1]
    scale, gate, in_, out = doubles(
        layer.post_attention_layernorm.weight, layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, layer.mlp.down_proj.weight
    )
    gate, in_ = ((part * scale) - (part * scale).mean(dim=1, keepdim=True) for part in (gate, in_))
    assert_cosines(rows_of(checkpoint, tmp_path, 1), gate, in_, out.T)


def test_post_norm_models_read_the_residual_stream_as_it_is(tmp_path: Path) -> None:
    checkpoint, model = saved(tmp_path, "olmo2")
    layer = model.model.layers[1]
    after, gate, in_, out = doubles(
        layer.post_feedforward_layernorm.weight,
        layer.mlp.gate_proj.weight,
        layer.mlp.up_proj.weight,
        layer.mlp.down_proj.weight,
    )
    assert_cosines(rows_of(checkpoint, tmp_path, 1), gate, in_, out.T * after)


def test_fused_projections(tmp_path: Path) -> None:
    """Phi-3 has gate in the first half, ModernBERT's first half is activated too."""
    for model_type, fused, down, norm in (
        ("phi3", "gate_up_proj", "down_proj", "post_attention_layernorm"), ("modernbert", "Wi", "Wo", "mlp_norm"),
    ):  # fmt: skip
        checkpoint, model = saved(tmp_path, model_type)
        layer = model.base_model.layers[1]
        scale, both, out = doubles(
            getattr(layer, norm).weight, getattr(layer.mlp, fused).weight, getattr(layer.mlp, down).weight
        )
        gate, in_ = (both * scale).chunk(2)
        if model_type == "modernbert":
            gate, in_ = (part - part.mean(dim=1, keepdim=True) for part in (gate, in_))
        assert_cosines(rows_of(checkpoint, tmp_path, 1), gate, in_, out.T)


def test_experts_and_shared_experts(tmp_path: Path) -> None:
    checkpoint, model = saved(tmp_path, "qwen2_moe")
    layer = model.model.layers[2]
    (scale,) = doubles(layer.post_attention_layernorm.weight)
    rows = rows_of(checkpoint, tmp_path, 2)
    assert [row["neuron"] for row in rows] == list(range(len(rows)))
    for expert in range(model.config.num_experts):
        own = [row for row in rows if row["expert"] == expert]
        gate_up, out = doubles(layer.mlp.experts.gate_up_proj[expert], layer.mlp.experts.down_proj[expert])
        gate, in_ = (gate_up * scale).chunk(2)
        assert_cosines(own, gate, in_, out.T)
        assert [row["index"] for row in own] == list(range(len(own)))
        assert {row["mlp"] for row in own} == {"mlp.experts"}
    shared = layer.mlp.shared_expert
    gate, in_, out = doubles(shared.gate_proj.weight, shared.up_proj.weight, shared.down_proj.weight)
    assert_cosines([row for row in rows if row["mlp"] == "mlp.shared_expert"], gate * scale, in_ * scale, out.T)


def test_interleaved_experts_stored_inputs_first(tmp_path: Path) -> None:
    checkpoint, model = saved(tmp_path, "gpt_oss")
    layer = model.model.layers[1]
    rows = rows_of(checkpoint, tmp_path, 1)
    (scale,) = doubles(layer.post_attention_layernorm.weight)
    for expert in range(model.config.num_local_experts):
        both, out = doubles(layer.mlp.experts.gate_up_proj[expert], layer.mlp.experts.down_proj[expert])
        own = [row for row in rows if row["expert"] == expert]
        assert_cosines(own, both[:, ::2].T * scale, both[:, 1::2].T * scale, out)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_both_stacks_of_an_encoder_decoder(tmp_path: Path, stack: Stack) -> None:
    checkpoint, model = saved(tmp_path, "t5")
    block = getattr(model, stack).block[1].layer[-1]
    part = block.DenseReluDense
    scale, gate, in_, out = doubles(block.layer_norm.weight, part.wi_0.weight, part.wi_1.weight, part.wo.weight)
    assert_cosines(rows_of(checkpoint, tmp_path, 1, stack), gate * scale, in_ * scale, out.T)


@pytest.mark.parametrize(
    ("model_type", "norm", "one"),
    [
        ("llama", "post_attention_layernorm", 1.0),
        ("gemma", "post_attention_layernorm", 0.0),
        ("stablelm", "post_attention_layernorm", 1.0),
    ],
)
def test_a_model_whose_norm_was_folded_by_hand_has_the_same_rows(
    tmp_path: Path, model_type: str, norm: str, one: float
) -> None:
    """The same function with the scale moved into the projections: `one` is the weight that does nothing."""
    checkpoint, model = saved(tmp_path, model_type)
    expected = rows_of(checkpoint, tmp_path, 1)
    with torch.no_grad():
        layer = model.model.layers[1]
        weight = layer.post_attention_layernorm.weight
        for projection in (layer.mlp.gate_proj, layer.mlp.up_proj):
            projection.weight *= weight + (1 - one)
        weight.fill_(one)
    model.save_pretrained(tmp_path / "folded")
    folded = resolve_checkpoint(CheckpointOptions(name="folded", path=tmp_path / "folded"))
    for row, other in zip(expected, rows_of(folded, tmp_path, 1), strict=True):
        for name, value in row.items():
            if isinstance(value, float):
                assert other[name] == pytest.approx(value, abs=2e-6, rel=1e-5), name
            elif isinstance(value, list):
                assert [entry["token"] for entry in other[name]] == [entry["token"] for entry in value]
            else:
                assert other[name] == value


@pytest.mark.parametrize("hidden", [8, 7])
def test_a_norm_is_known_by_what_it_does(hidden: int) -> None:
    scale = torch.rand(hidden) + 0.5
    layer_norm = nn.LayerNorm(hidden)
    rms_norm = nn.RMSNorm(hidden)
    for norm in (layer_norm, rms_norm):
        norm.weight.data = scale
    nn.init.normal_(layer_norm.bias)
    for norm, centres in ((layer_norm, True), (rms_norm, False)):
        fold = fold_of(norm, hidden)
        assert fold.centres == centres
        torch.testing.assert_close(fold.scale, scale, atol=1e-4, rtol=1e-3)


# Baselines and tokens


def test_the_random_baseline_is_that_of_mismatched_neurons() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = NeuronVectors(*(torch.randn(50, 16, generator=generator) for _ in range(3)))
    found = random_baseline(vectors)["cos_in_out"]
    pairs = [
        float(torch.cosine_similarity(vectors.in_[i].double(), vectors.out[(i - shift) % 50].double(), dim=0))
        for i in range(50)
        for shift in range(1, 9)
    ]
    for quantile, value in found.items():
        assert value == pytest.approx(float(np.quantile(pairs, float(quantile))), abs=1e-5)


@pytest.mark.parametrize("hidden", [2, 3, 8, 512])
def test_the_closed_form_is_that_of_random_directions(hidden: int) -> None:
    first, second = torch.randn(2, 200_000, hidden, generator=torch.Generator().manual_seed(hidden))
    cosines = torch.cosine_similarity(first, second, dim=1).double().numpy()
    expected = closed_form(hidden)
    assert expected["std"] == pytest.approx(cosines.std(), rel=0.01)
    for quantile in ("0.05", "0.5", "0.95"):
        assert expected[quantile] == pytest.approx(float(np.quantile(cosines, float(quantile))), abs=0.02 / hidden**0.5)


@pytest.mark.parametrize("tile", [1 << 14, 7])
def test_token_lists_are_those_of_the_whole_product(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr(weights, "VOCABULARY_AT_ONCE", tile)
    monkeypatch.setattr(weights, "SCORES_AT_ONCE", 3 * tile)
    generator = torch.Generator().manual_seed(1)
    # Integers, so that products are exact.
    rows, tokens = (torch.randint(-999, 1000, (count, 6), generator=generator).float() for count in (11, 40))
    high, low = ranked_tokens(rows, tokens, scale=0.5)
    scores = (rows.double() @ tokens.double().T).numpy()
    for row in range(len(rows)):
        for found, sign in ((high, -1), (low, 1)):
            order = np.lexsort((np.arange(40), sign * scores[row]))[:10]
            assert [entry["token"].as_py() for entry in found[row]] == order.tolist()
            assert [entry["score"].as_py() for entry in found[row]] == (0.5 * scores[row][order]).tolist()


def test_heads_are_tied_scaled_or_capped_and_the_footer_says_so(tmp_path: Path) -> None:
    facts = {}
    for model_type in ("llama", "cohere", "granite", "gemma2"):
        checkpoint, model = saved(tmp_path, model_type)
        rows = rows_of(checkpoint, tmp_path, 0)
        footer = read_provenance(tmp_path / f"{model_type}-0.parquet")
        facts[model_type] = (footer["head"], footer["logit_scale"], footer["logit_soft_cap"])
        # The change of the logits that a neuron's output makes, with the norm's own scale of the residual stream left out.
        layer, norm = model.model.layers[0], model.model.norm
        out = layer.mlp.down_proj.weight.detach().double().T
        if model_type == "gemma2":
            out = out * (1 + layer.post_feedforward_layernorm.weight.detach().double())
        out = out * (norm.weight.detach().double() + (1 if model_type == "gemma2" else 0))
        if model_type == "cohere":
            out = out - out.mean(dim=1, keepdim=True)
        head = model.get_output_embeddings().weight.detach().double()
        scale = {"cohere": model.config.logit_scale if model_type == "cohere" else 1.0}.get(model_type, 1.0)
        if model_type == "granite":
            scale = 1 / model.config.logits_scaling
        scores = scale * (out @ head.T)
        for row, expected in zip(rows, scores, strict=True):
            values = [entry["score"] for entry in row["promoted"]]
            np.testing.assert_allclose(values, expected.topk(10).values.numpy(), rtol=1e-4, atol=1e-5)
    assert facts["llama"][0] == "its own"
    assert facts["gemma2"][0] == facts["cohere"][0] == "tied to the embedding"
    assert facts["gemma2"][2] == 30.0
    assert facts["cohere"][1] == pytest.approx(0.0625)


def test_only_the_tensors_of_the_wanted_layer_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, _ = saved(tmp_path, "mixtral")
    read: list[str] = []
    slices = StoredTensors._slice
    monkeypatch.setattr(StoredTensors, "_slice", lambda self, key: (read.append(key), slices(self, key))[1])
    rows_of(checkpoint, tmp_path, 1)
    assert {key for key in read if "layers." in key} == {key for key in read if "layers.1." in key}
    assert not any("attn" in key for key in read)
    assert any("experts" in key for key in read)
