"""What is said of a model before its weights are read: what it has, what it would cost, and the study that follows."""

from pathlib import Path

import pytest

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import Checkpoint
from gluscope_assets.core.model.gated_mlp import Stack
from gluscope_assets.core.model.inspection import Inspection, MLPGroup, inspect_checkpoint, spans, write_study
from gluscope_assets.core.options import CheckpointOptions, CollectionOptions
from gluscope_assets.study.study import load_study
from gluscope_assets_tests.support.zoo import tiny_config, tiny_model


def inspected(folder: Path, model_type: str, stack: Stack | None = None) -> Inspection:
    """Of a folder that holds a config and nothing else."""
    tiny_config(model_type).save_pretrained(folder)
    return inspect_checkpoint(Checkpoint("tiny", folder, ""), stack)


def test_dense_experts_and_shared_experts_are_told_apart(tmp_path: Path) -> None:
    found = inspected(tmp_path, "qwen2_moe")
    assert found.model == "Qwen2MoeModel"
    assert found.layers == (0, 1, 2, 3)
    taps = "mlp.experts.gate_up_proj, mlp.experts.down_proj"
    assert MLPGroup((1, 2, 3), "mlp.experts", 6, 20, "silu", taps) in found.groups
    assert [(group.mlp, group.experts, group.width) for group in found.groups] == [
        ("mlp", None, 44),
        ("mlp.experts", 6, 20),
        ("mlp.shared_expert", None, 28),
    ]
    assert found.neurons == 44 + 3 * (6 * 20 + 28)
    assert found.routed == 2


def test_costs_follow_from_what_a_token_meets(tmp_path: Path) -> None:
    found, model = inspected(tmp_path, "mixtral"), tiny_model("mixtral")
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    experts = sum(size for name, size in sizes.items() if "experts" in name)
    embedding = model.get_input_embeddings().weight.numel()
    assert found.parameters == sum(sizes.values())
    assert found.active_parameters == sum(sizes.values()) - embedding - experts * 4 // 6
    assert found.flops(1000) == 2000 * found.active_parameters
    # As measured on the real model and the demo: 0.5 KB of statistics, 66 KB of examples, 30 KB of sample a neuron.
    assert found.aggregate_bytes(CollectionOptions()) / found.neurons == pytest.approx(96_500, rel=0.02)
    fewer = CollectionOptions(examples=4, sample_positions=0)
    assert found.aggregate_bytes(fewer) / found.neurons == pytest.approx(500 + 66_000 / 4, rel=0.02)
    # Each shard has statistics and examples of its own, and its part of the sample.
    assert found.shard_bytes(fewer, 3) == 3 * found.aggregate_bytes(fewer)


def test_layers_without_a_gated_mlp_are_left_out(tmp_path: Path) -> None:
    found = inspected(tmp_path, "zamba")
    assert found.layers == (1, 3)
    write_study(found, CheckpointOptions(name="tiny", path=tmp_path), tmp_path / "study.yaml")
    assert load_study(tmp_path / "study.yaml").model.layer_numbers == (1, 3)


def test_a_written_study_can_be_read(tmp_path: Path) -> None:
    found = inspected(tmp_path / "T5 small!", "t5", "decoder")
    write_study(found, CheckpointOptions(name="last", path=tmp_path / "T5 small!"), tmp_path / "study.yaml")
    study = load_study(tmp_path / "study.yaml")
    assert study.name == "t5_small"
    assert (study.model.layers, study.model.stack) == (4, "decoder")
    assert study.model.checkpoints[0].path == tmp_path / "T5 small!"
    with pytest.raises(InputError, match="study.yaml exists; choose another name"):
        write_study(found, CheckpointOptions(name="last", path=tmp_path), tmp_path / "study.yaml")
    hub = CheckpointOptions(name="main", repository="owner/7B-model", revision="0a1b2c3")
    write_study(found, hub, tmp_path / "hub.yaml")
    (checkpoint,) = load_study(tmp_path / "hub.yaml").model.checkpoints
    assert (checkpoint.repository, checkpoint.revision) == ("owner/7B-model", "0a1b2c3")


def test_spans_are_short() -> None:
    assert spans([0, 1, 2, 5, 7, 8]) == "0–2, 5, 7–8"
    assert spans([]) == ""
