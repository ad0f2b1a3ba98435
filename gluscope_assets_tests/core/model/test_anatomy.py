"""The sweep: every model type of transformers' causal-LM mapping, its gated MLPs found and tapped.

An independent watcher records what enters each projection; the zoo says from the source text which types are gated.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel, OPTConfig, OPTModel, PreTrainedModel

from gluscope_assets.core.collect.forward import Batch, Forward
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.activation import activation_function
from gluscope_assets.core.model.anatomy import NeedsWeights, look_through
from gluscope_assets.core.model.gated_mlp import Activations, GatedMLP
from gluscope_assets.core.model.taps import Taps
from gluscope_assets_tests.support.zoo import MODEL_TYPES, NOT_BUILT, gated_modules, inputs_of, tiny_model

LEAST_GATED = 124
"""Gated types that passed when this number was written."""

NAMED = (
    "llama", "qwen3", "mistral", "gemma2", "gemma3_text", "olmo", "olmo2", "olmo3", "phi3", "glm4", "granite", "cohere",
    "smollm3", "mixtral", "qwen3_moe", "olmoe", "deepseek_v3", "gpt_oss", "llama4_text", "t5", "modernbert",
)  # fmt: skip
"""Types that users ask for first."""

CHANGED = {"bitnet": "ffn_sub_norm", "inkling_text": "the router's factors of shared experts"}
"""Types where something stands between the product and the output projection, and what."""

OTHER_ROWS = {
    "blt": "its layers run over bytes, patches and groups of them",
    "cpmant": "its layers run over a prompt of its own before the tokens",
}
"""Types whose layers do not have a row for each token."""

TOKENS = 14
"""Of the two texts that are forwarded."""

CLAMP = 6.9
"""gpt-oss bounds gate and in by 7."""

LINEAR = ("linear", "matmul", "bmm", "__matmul__", "mm")


class Recorder(TorchFunctionMode):
    """The operands of every product with a weight, by where the weight lies in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[int, list[Tensor]] = defaultdict(list)
        self.outputs: dict[int, list[Tensor]] = defaultdict(list)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(options or {}))
        if getattr(function, "__name__", "") in LINEAR:
            first, second = arguments[:2]
            for weight, value in ((second, first), (first, second)):
                self.inputs[weight.data_ptr()].append(value.clone())
                self.outputs[weight.data_ptr()].append(result.clone())
        return result


def record(model: nn.Module, mlps: list[GatedMLP]) -> tuple[dict[GatedMLP, list[Activations]], Recorder, set[str]]:
    """What the taps give, what an independent watcher sees, and which modules run, in one pass over two texts."""
    ran: set[str] = set()
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda *call, path=path: ran.add(path))
    found: dict[GatedMLP, list[Activations]] = defaultdict(list)

    def receive(block: str, computed: list[tuple[GatedMLP, Activations]]) -> None:
        for mlp, activations in computed:
            found[mlp].append(activations)

    ids = torch.randint(3, 60, (2, TOKENS // 2), generator=torch.Generator().manual_seed(0))
    recorder = Recorder()

    def forward() -> None:
        with recorder:
            model(**inputs_of(model, ids))  # type: ignore[arg-type]

    # Without the stop after the last block, so that what enters its projections is seen too.
    with Taps(model, mlps) as taps:
        taps.stops = False
        taps.run(forward, receive)
    return found, recorder, ran


def layer_of(path: str) -> int:
    """The first number in a path."""
    return int(re.findall(r"\d+", path)[0])


def weight_of(model: nn.Module, mlp: GatedMLP, part: str) -> int:
    """Where the part of a projection's weight lies in memory."""
    projection = getattr(mlp, part)
    stored = model.get_parameter(projection.parameter)
    whole = stored.view(projection.shape) if stored.numel() == torch.Size(projection.shape).numel() else stored
    in_one = len(projection.shape) == 3 and projection.expert is not None
    return int(whole[projection.expert].data_ptr() if in_one else whole.data_ptr())


def rows_of(values: list[Tensor], mlp: GatedMLP, activations: Activations) -> list[Tensor]:
    """The rows of what entered a projection that belong to an MLP's activations."""
    candidates = []
    for value in values:
        if value.dim() == 3 and mlp.expert is not None and activations.tokens is not None and len(value) > mlp.expert:
            candidates.append(value[mlp.expert][activations.tokens.clamp(max=value.shape[1] - 1)])
        candidates.append(value.reshape(-1, value.shape[-1]))
    return [rows for rows in candidates if rows.shape == activations.post.shape]


def sorted_rows(rows: Tensor) -> Tensor:
    return rows[rows[:, 0].argsort()]


def check(model_type: str, model: PreTrainedModel) -> None:
    """One gated type: every layer found, post what enters w_out, widths of the config, act = σ(gate), post = act · in."""
    for stack in ("encoder", "decoder") if model.config.is_encoder_decoder else (None,):
        mlps = look_through(model, stack).mlps
        found, recorder, ran = record(model, mlps)
        assert set(found) <= set(mlps)
        gated = [path for path in gated_modules(model) if path in ran and path.startswith(stack or "")]
        assert {mlp.layer for mlp in mlps} == set(map(layer_of, gated))
        config = re.findall(r"\d+", str(model.config.to_dict()))
        for mlp in mlps:
            if mlp.expert is None:
                assert found[mlp], f"{mlp.path} was not tapped"
            fits = {mlp.width, mlp.width * 2, mlp.width * 3 // 2, *(mlp.width // n for n in (1, 2, 3) if mlp.width % n == 0)}
            assert fits & set(map(int, config)), f"{mlp.path} has {mlp.width} neurons, which is no width of the config"
            for activations in found[mlp]:
                assert activations.post.shape[1] == mlp.width
                if mlp.expert is None:
                    assert activations.tokens is None
                    assert len(activations.post) == TOKENS or model_type in OTHER_ROWS
                else:
                    assert activations.tokens is not None
                    assert len(activations.tokens) == len(activations.post)
                    assert (activations.tokens.diff() > 0).all()
                    assert len(activations.tokens) == 0 or int(activations.tokens[-1]) < TOKENS
                assert activations.act is not None
                torch.testing.assert_close(activations.act * activations.in_, activations.post)
                if mlp.activation != "unnamed":
                    torch.testing.assert_close(
                        activation_function(mlp.activation).compute(activations.gate), activations.act, atol=1e-5, rtol=1e-4
                    )
                if len(activations.post) and not mlp.changed:
                    address = weight_of(model, mlp, "out")
                    first = model.get_parameter(mlp.out.parameter).data_ptr()
                    entered = recorder.inputs[address] + (recorder.inputs[first] if first != address else [])
                    same = [
                        torch.equal(sorted_rows(rows), sorted_rows(activations.post))
                        for rows in rows_of(entered, mlp, activations)
                    ]
                    assert any(same), f"{mlp.path}, expert {mlp.expert}: post is not what enters {mlp.out.parameter}"
        if any(mlp.changed for mlp in mlps):
            assert model_type in CHANGED


@pytest.mark.parametrize("model_type", NAMED)
def test_the_models_of_today(model_type: str) -> None:
    model = tiny_model(model_type)
    assert gated_modules(model)
    check(model_type, model)


def test_every_gated_type_of_transformers_is_found_and_tapped(record_property: Callable[[str, object], None]) -> None:
    passed, failed, plain = [], {}, []
    for model_type in MODEL_TYPES:
        if model_type in NOT_BUILT:
            continue
        model = tiny_model(model_type)
        if not gated_modules(model):
            with pytest.raises(InputError, match="has no gated MLP"):
                look_through(model, "decoder" if model.config.is_encoder_decoder else None)
            plain.append(model_type)
            continue
        try:
            check(model_type, model)
            passed.append(model_type)
        except (AssertionError, InputError, RuntimeError) as error:
            failed[model_type] = str(error)
    not_built = "".join(f"\n  {model_type}: {reason}" for model_type, reason in NOT_BUILT.items())
    record_property("said", f"{len(passed)} gated types pass, {len(plain)} are not gated; not built:{not_built}")
    assert not failed
    assert len(passed) >= LEAST_GATED


def test_a_model_without_a_gated_mlp_is_refused_with_what_it_has() -> None:
    gpt2 = GPT2Model(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=11, n_positions=8))
    with pytest.raises(InputError, match=r"GPT2Model has no gated MLP: .* only the linear parts c_attn, c_fc, c_proj;"):
        look_through(gpt2)
    opt = OPTModel(OPTConfig(num_hidden_layers=1, num_attention_heads=2, hidden_size=8, ffn_dim=6, vocab_size=11))
    with pytest.raises(InputError, match=r"OPTModel has no gated MLP: .* fc1, fc2, k_proj"):
        look_through(opt)


def test_the_stack_must_be_named_where_there_are_two() -> None:
    with pytest.raises(InputError, match="T5Model has an encoder and a decoder; set model.stack"):
        look_through(tiny_model("t5"))
    with pytest.raises(InputError, match="LlamaModel has one stack of layers only; remove model.stack"):
        look_through(tiny_model("llama"), "decoder")
    encoder, decoder = (look_through(tiny_model("t5"), stack).mlps for stack in ("encoder", "decoder"))
    assert {mlp.path.split(".")[0] for mlp in encoder} == {"encoder"}
    assert {mlp.path.split(".")[0] for mlp in decoder} == {"decoder"}


def test_nothing_is_needed_of_the_weights_but_their_shapes() -> None:
    with torch.device("meta"):
        model = LlamaModel(LlamaConfig(num_hidden_layers=2, vocab_size=128_256))
    assert [(mlp.layer, mlp.width) for mlp in look_through(model).mlps] == [(0, 11008), (1, 11008)]


def test_a_model_that_decides_by_values_needs_its_weights() -> None:
    model = tiny_model("jetmoe")
    assert {mlp.expert for mlp in look_through(model).mlps} == set(range(model.config.num_local_experts))
    with pytest.raises(NeedsWeights, match="JetMoeModel cannot be looked through without its weights"):
        look_through(model.to("meta"))


@pytest.mark.parametrize(
    ("model_type", "before", "after"),
    [
        ("llama", "post_attention_layernorm", None),
        ("cohere", "input_layernorm", None),
        ("gemma2", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
        ("olmo2", None, "post_feedforward_layernorm"),
        ("mixtral", "post_attention_layernorm", None),
        ("modernbert", "mlp_norm", None),
    ],
)
def test_the_norms_around_an_mlp_are_known(model_type: str, before: str | None, after: str | None) -> None:
    anatomy = look_through(tiny_model(model_type))
    for mlp in anatomy.mlps:
        assert [name and name.split(".")[-1] for name in (mlp.norm, mlp.norm_after)] == [before, after]
    assert anatomy.final_norm is not None
    assert "norm" in anatomy.final_norm


def test_a_fused_projection_is_read_in_the_models_own_order() -> None:
    """gpt-oss interleaves gate and in; Phi-3 puts gate first; each neuron's vectors give its gate and in."""
    for model_type in ("gpt_oss", "phi3", "qwen3_moe", "llama4_text", "dbrx", "jetmoe", "modernbert"):
        model = tiny_model(model_type)
        found, recorder, _ = record(model, look_through(model).mlps)
        checked = 0
        for mlp, runs in found.items():
            for activations in runs:
                inputs = recorder.inputs[weight_of(model, mlp, "gate")]
                for part, tapped in (("gate", activations.gate), ("in_", activations.in_)):
                    projection = getattr(mlp, part)
                    vectors = projection.vectors(model.get_parameter(projection.parameter).detach(), "outputs")
                    for value in inputs:
                        computed = value.reshape(-1, value.shape[-1]) @ vectors.T
                        if computed.shape != tapped.shape or not len(tapped):
                            continue
                        # Taps are in the order of tokens. Biases and a constant beside in shift a neuron's values.
                        first, second = sorted_rows(computed), sorted_rows(tapped)
                        inside = second.abs() < CLAMP
                        shifted = first + (second - first)[0]
                        torch.testing.assert_close(shifted[inside], second[inside], atol=1e-4, rtol=1e-4)
                        checked += 1
        assert checked or model_type == "llama4_text"


def test_a_model_with_other_rows_than_tokens_is_refused() -> None:
    model = tiny_model("blt")
    with (
        pytest.raises(InputError, match=r"computes \d+ rows for 5 tokens; choose layers or a model with one"),
        Forward(model, look_through(model).mlps) as forward,
    ):
        forward.run(Batch.whole(np.arange(1), np.array([5]), np.arange(5), np.ones(5, bool)), lambda block, found: None)
