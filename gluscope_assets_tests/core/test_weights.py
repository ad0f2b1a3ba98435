"""Weights against float64: cosines, orientation, classes and token lists."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gluscope_assets.core.checkpoint import resolve_checkpoint
from gluscope_assets.core.options import CheckpointOptions
from gluscope_assets.core.weights import classify, orientation, write_neuron_weights


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
