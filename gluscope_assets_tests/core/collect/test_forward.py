"""The forward pass: each text as if it ran alone, in packs and in padded batches, and no layer more than wanted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GemmaConfig,
    GemmaModel,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    PreTrainedModel,
    Qwen2Config,
    Qwen2Model,
)

from gluscope_assets.core.collect.forward import Batch, Forward, similar_lengths
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.model.anatomy import look_through
from gluscope_assets.core.model.gated_mlp import Activations, GatedMLP
from gluscope_assets_tests.support.reference import TableModel, corpus_of

SMALL: dict[str, Any] = {
    "vocab_size": 30, "hidden_size": 16, "intermediate_size": 9, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip

PACKED: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaModel(LlamaConfig(**SMALL)),
    "qwen2": lambda: Qwen2Model(Qwen2Config(**SMALL)),
    "gemma": lambda: GemmaModel(GemmaConfig(**SMALL)),
    "mistral, window of 4": lambda: MistralModel(MistralConfig(**SMALL, sliding_window=4)),
}
"""Models that take texts without padding."""

PADDED: dict[str, Callable[[], PreTrainedModel]] = {
    "gemma2, capped scores": lambda: Gemma2Model(Gemma2Config(**SMALL)),
}
"""Models that do not."""


def model_of(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return {**PACKED, **PADDED}[name]().eval()


def texts_of(seed: int, lengths: list[int]) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, 30, length).tolist() for length in lengths]


def gates_and_ins(model: nn.Module, corpus: TokenizedCorpus, layer: int = 2) -> tuple[bool, list[tuple[Tensor, Tensor]]]:
    """Whether texts were packed; gate and in of each text."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    wanted = [mlp for mlp in look_through(model).mlps if mlp.layer == layer]
    with Forward(model, wanted) as forward:
        for batch in forward.batches(corpus, np.arange(corpus.n_texts), True):

            def receive(block: str, computed: list[tuple[GatedMLP, Activations]], batch: Batch = batch) -> None:
                ((_, activations),) = computed
                parts = (part.split(batch.length.tolist()) for part in (activations.gate, activations.in_))
                found.update(zip(batch.text.tolist(), zip(*parts, strict=True), strict=True))

            forward.run(batch, receive)
        return forward.packed, [found[text] for text in range(corpus.n_texts)]


@pytest.mark.parametrize("name", [*PACKED, *PADDED])
def test_every_text_is_forwarded_as_if_alone(name: str) -> None:
    model, texts = model_of(name), texts_of(1, [5, 5, 1, 17, 2, 17, 9])
    packed, together = gates_and_ins(model, corpus_of(texts))
    assert packed == (name in PACKED)
    mlp = model.layers[2].mlp
    for text, (gate, in_) in zip(texts, together, strict=True):
        kept: list[Tensor] = []
        parts = (mlp.gate_proj, mlp.up_proj)
        handles = [part.register_forward_hook(lambda *call, kept=kept: kept.append(call[2][0])) for part in parts]
        with torch.inference_mode():
            model(input_ids=torch.tensor([text]))
        for handle in handles:
            handle.remove()
        torch.testing.assert_close(gate, kept[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(in_, kept[1], atol=1e-5, rtol=1e-5)


@settings(max_examples=20)
@given(data=st.data(), seed=st.integers(0, 100))
def test_a_text_depends_neither_on_its_neighbours_nor_on_the_future(data: st.DataObject, seed: int) -> None:
    model = model_of("llama")
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=2, max_size=5), label="lengths")
    texts = texts_of(seed, lengths)
    changed = data.draw(st.integers(0, len(texts) - 1), label="changed text")
    place = data.draw(st.integers(0, lengths[changed] - 1), label="changed token")
    other = [list(text) for text in texts]
    other[changed][place] = (other[changed][place] + 1) % 30
    _, before = gates_and_ins(model, corpus_of(texts))
    _, after = gates_and_ins(model, corpus_of(other))
    for number, (first, second) in enumerate(zip(before, after, strict=True)):
        unchanged = place if number == changed else lengths[number]
        for a, b in zip(first, second, strict=True):
            # To the byte: the shapes are the same, so even the rounding is.
            assert torch.equal(a[:unchanged], b[:unchanged])
            assert number != changed or not torch.equal(a[place:], b[place:])


def test_a_model_that_cannot_pack_says_why_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with Forward(model := model_of("gemma2, capped scores"), look_through(model).mlps) as forward:
        assert not forward.packed
    assert "Gemma2Model is forwarded in padded batches: packing fails with ValueError" in caplog.text
    assert "softcap" in caplog.text
    caplog.clear()
    table = TableModel(torch.ones(3, 1), torch.ones(3, 1))
    with Forward(table, look_through(table).mlps) as forward:
        assert not forward.packed
    assert "TableModel is forwarded in padded batches: its attention cannot be exchanged" in caplog.text


def test_a_model_that_lets_packed_texts_mix_is_padded(caplog: pytest.LogCaptureFixture) -> None:
    model = model_of("llama")

    class Mixing(nn.Module):
        """Adds the mean of all tokens, as a recurrent layer across a pack would."""

        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, hidden: Tensor) -> Tensor:
            mixed: Tensor = self.norm(hidden + hidden.mean(dim=(0, 1)))
            return mixed

    for layer in model.layers:
        layer.input_layernorm = Mixing(layer.input_layernorm)
    with Forward(model, look_through(model).mlps) as forward:
        assert not forward.packed
    assert "its texts do not keep apart in a pack" in caplog.text


def test_a_model_keeps_its_own_attention_afterwards() -> None:
    model = model_of("llama")
    usual = model.config._attn_implementation
    with Forward(model, look_through(model).mlps) as forward:
        assert forward.packed
        assert model.config._attn_implementation != usual
    assert model.config._attn_implementation == usual
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_padded_batches_hold_each_text_once_and_little_padding(lengths: list[int]) -> None:
    length = np.array(lengths)
    groups = list(similar_lengths(length))
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    for group in groups:
        assert (np.diff(group) > 0).all()
        assert length[group].sum() >= 0.8 * length[group].max() * len(group)


def test_only_the_wanted_layers_run() -> None:
    model, seen, received = model_of("llama"), [], []
    wanted = [mlp for mlp in look_through(model).mlps if mlp.layer == 1]
    model.layers[2].register_forward_pre_hook(lambda module, inputs: seen.append("ran"))
    with Forward(model, wanted) as forward:
        forward.run(Batch.of(corpus_of([[1, 2]]), np.array([0]), True), lambda block, found: received.append(block))
    assert received == ["layers.1.mlp"]
    assert not seen


def test_act_is_the_models_own_in_float32_and_left_out_otherwise(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = model_of("llama").to(dtype)
        seen: list[Activations] = []
        with Forward(model, look_through(model).mlps) as forward:
            batch = Batch.of(corpus_of([[1, 2, 3]]), np.array([0]), True)
            forward.run(batch, lambda block, found, seen=seen: seen.append(found[0][1]))
        for found in seen:
            assert (found.act is None) == (dtype != torch.float32)
            if found.act is not None:
                assert torch.equal(found.act * found.in_, found.post)
