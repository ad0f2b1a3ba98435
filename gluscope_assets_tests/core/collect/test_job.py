"""The collection against brute force: random models, ragged texts, and tables of values chosen to tie, vanish and clash."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaModel

from gluscope_assets.core.collect import kernel
from gluscope_assets.core.corpus.sample import choose_sample
from gluscope_assets.core.errors import InputError, OutOfMemory
from gluscope_assets.core.files import read_provenance
from gluscope_assets.core.model.anatomy import look_through
from gluscope_assets.core.model.gated_mlp import Stack
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets.core.paths import LayerShards
from gluscope_assets.core.tables.aggregate import NO_EXPERT, read_aggregate
from gluscope_assets_tests.support.reference import (
    ModularExperts,
    TableModel,
    assert_agrees,
    brute_force,
    collect_in_memory,
    collect_merged,
    corpus_of,
    cut,
    recording,
    to_half,
)
from gluscope_assets_tests.support.zoo import tiny_model


@pytest.fixture(params=["C kernel", "plain torch"], autouse=True)
def reduction(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with both formulations of the reduction."""
    if request.param == "plain torch":
        monkeypatch.setattr(kernel, "load", lambda: None)
    elif kernel.load() is None:
        pytest.skip("no C compiler on this machine")
    return str(request.param)


SMALL = CollectionOptions(examples=3, window_before=4, window_after=2, sample_positions=7)


def tiny_llama(seed: int, act: str = "silu", dtype: torch.dtype = torch.float32) -> LlamaModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=9, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, hidden_act=act,
    )  # fmt: skip
    return LlamaModel(config).to(dtype).eval()


def ragged_texts(seed: int, count: int = 23) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    lengths = [1, 1, 40, *generator.integers(1, 25, count - 3)]
    return [[0, *generator.integers(1, 30, length - 1).tolist()] for length in lengths]


@pytest.mark.parametrize("act", ["silu", "gelu", "relu"])
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("count_special_tokens", [False, True])
def test_random_models_agree_with_brute_force(tmp_path: Path, act: str, layer: int, count_special_tokens: bool) -> None:
    model, corpus = tiny_llama(seed=layer, act=act), corpus_of(ragged_texts(seed=3), shard_packs=3)
    options = SMALL.model_copy(update={"count_special_tokens": count_special_tokens})
    with recording(layer, corpus) as recorded:
        merged = collect_merged(model, corpus, options, tmp_path, layer)
    assert_agrees(merged, brute_force(corpus, recorded, options), recorded, corpus)


@pytest.mark.parametrize(
    ("model_type", "stack"),
    [
        ("phi3", None), ("mixtral", None), ("qwen2_moe", None), ("deepseek_v3", None), ("gpt_oss", None), ("llama4_text", None),
        ("dbrx", None), ("jetmoe", None), ("modernbert", None), ("t5", "encoder"), ("t5", "decoder"),
    ],
)  # fmt: skip
def test_other_architectures_agree_with_brute_force(tmp_path: Path, model_type: str, stack: Stack | None) -> None:
    model, corpus = tiny_model(model_type), corpus_of(ragged_texts(seed=3, count=12), shard_packs=3)
    layer = look_through(model, stack).mlps[-1].layer
    with recording(layer, corpus) as recorded:
        merged = collect_merged(model, corpus, SMALL, tmp_path, layer, stack)
    assert_agrees(merged, brute_force(corpus, recorded, SMALL), recorded, corpus)
    sees_all = merged.expert == NO_EXPERT
    assert (merged.routed[sees_all] == merged.positions).all()
    assert (merged.routed[~sees_all] <= merged.positions).all()
    # The zoo's mixtures send each token to two experts.
    firsts = merged.routed[~sees_all & (merged.index == 0)]
    assert firsts.sum() == (2 * merged.positions if len(firsts) else 0)


@pytest.mark.parametrize("layer", [0, 1])
def test_experts_that_are_modules_agree_with_brute_force(tmp_path: Path, layer: int) -> None:
    model, corpus = ModularExperts(seed=layer), corpus_of(ragged_texts(seed=3, count=12), shard_packs=3)
    with recording(layer, corpus) as recorded:
        merged = collect_merged(model, corpus, SMALL, tmp_path, layer)
    assert_agrees(merged, brute_force(corpus, recorded, SMALL), recorded, corpus)
    names = list(zip(merged.mlp.tolist(), merged.expert.tolist(), merged.index.tolist(), strict=True))
    shared = [("mlp.shared_expert", NO_EXPERT, index) for index in range(7)]
    assert sorted(names) == sorted([("mlp.experts", expert, index) for expert in range(3) for index in range(5)] + shared)
    # Every token goes to two experts.
    experts = merged.expert != NO_EXPERT
    assert merged.routed[experts].sum() == 2 * 5 * merged.positions
    # What the experts computed, computed again from the tokens' hidden states.
    inputs: list[torch.Tensor] = []
    model.layers[layer].mlp.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    for text in range(corpus.n_texts):
        inputs.clear()
        with torch.no_grad():
            token = torch.from_numpy(corpus.tokens_of(text)).long()[None]
            model(token, torch.ones_like(token), False)
        flat, mixture = inputs[0][0], model.layers[layer].mlp
        chosen = mixture.router(flat).topk(2, dim=-1)[1]
        for number, expert in enumerate(mixture.experts):
            neurons = np.flatnonzero(merged.expert == number)
            routed = (chosen == number).any(dim=1).numpy()
            gate = recorded["gate"][text][:, neurons]
            assert np.array_equal(~np.isnan(gate).any(axis=1), routed)
            np.testing.assert_allclose(gate[routed], expert.w1(flat).detach().numpy()[routed], atol=1e-5)


def test_a_bfloat16_model_agrees_with_brute_force(tmp_path: Path) -> None:
    model, corpus = tiny_llama(seed=5, dtype=torch.bfloat16), corpus_of(ragged_texts(seed=5))
    with recording(1, corpus) as recorded:
        merged = collect_merged(model, corpus, SMALL, tmp_path, 1)
    # act is computed in float32 from the model's gate, not in the model's own dtype (semantics, rule 4).
    recorded["act"] = [torch.nn.functional.silu(torch.from_numpy(gate)).numpy() for gate in recorded["gate"]]
    expected = brute_force(corpus, recorded, SMALL)
    assert np.array_equal(merged.count, expected.count)
    np.testing.assert_allclose(merged.sum, expected.sum, rtol=1e-6)


VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, -1.2784645, 3.0, -30.0, -90.0, 1e-30, -1e-30, 1e-41, 7e4, -7e4])


@settings(max_examples=40)
@given(data=st.data(), neurons=st.integers(1, 3), shards=st.integers(1, 4), examples=st.integers(1, 5))
def test_ties_zeros_and_extremes_agree_with_brute_force(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, neurons: int, shards: int, examples: int
) -> None:
    table = st.lists(st.lists(VALUES, min_size=neurons, max_size=neurons), min_size=6, max_size=6)
    gate, in_ = (torch.tensor(data.draw(table, label=name)) for name in ("gate", "in"))
    texts = data.draw(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=9), min_size=1, max_size=12), label="texts")
    model, corpus = TableModel(gate, in_), cut(corpus_of(texts, pack_texts=2), shards)
    options = SMALL.model_copy(update={"examples": examples})
    with recording(0, corpus) as recorded:
        merged = collect_merged(model, corpus, options, tmp_path_factory.mktemp("collect"))
    assert_agrees(merged, brute_force(corpus, recorded, options), recorded, corpus)


def test_an_empty_quadrant_has_no_statistics_and_no_examples(tmp_path: Path) -> None:
    model, corpus = TableModel(torch.ones(3, 1), torch.ones(3, 1)), corpus_of([[1, 2], [2]])
    merged = collect_merged(model, corpus, SMALL, tmp_path)
    assert merged.count[:, 0].tolist() == [3, 0, 0, 0]
    assert (merged.text[3:] == -1).all()
    statistics = LayerShards(tmp_path, 0).shard(0) / "statistics.parquet"
    import polars as pl

    assert pl.read_parquet(statistics)["gate-_in+_post_sum"].to_list() == [None]


def test_swish_ties_are_broken_by_post(tmp_path: Path) -> None:
    lowest = -1.2784645  # Swish's minimum
    model = TableModel(torch.tensor([[0.0], [lowest], [lowest]]), torch.tensor([[0.0], [1.0], [2.0]]))
    merged = collect_merged(model, corpus_of([[1], [1, 2], [2], [1]]), SMALL, tmp_path)
    act_list = 7  # gate-_in+ act
    assert merged.text[act_list, 0].tolist() == [1, 2, 0]
    assert merged.position[act_list, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_an_error_that_names_layer_and_text(tmp_path: Path, value: float) -> None:
    model = tiny_llama(0)
    model.embed_tokens.weight.data[29] = value
    with pytest.raises(InputError, match=r"Layer 0 has an infinite or undefined gate in text 1"):
        collect_merged(model, corpus_of([[0, 1, 2], [0, 3, 29], [0, 5]]), SMALL, tmp_path)
    assert not list(tmp_path.rglob("*.parquet"))


def test_the_sample_is_the_counted_positions_with_the_smallest_hashes(tmp_path: Path) -> None:
    model, corpus = tiny_llama(1), corpus_of(ragged_texts(1), shard_packs=2)
    with recording(0, corpus) as recorded:
        merged = collect_merged(model, corpus, SMALL, tmp_path)
    assert len(merged.sample_hash) == 7
    assert (np.diff(merged.sample_hash.astype(object)) > 0).all()
    assert not np.isin(merged.sample_token, corpus.special_token_ids).any()
    for row, (text, position) in enumerate(zip(merged.sample_text, merged.sample_position, strict=True)):
        assert merged.sample_token[row] == corpus.tokens_of(text)[position]
        assert merged.sample_gate[row].tolist() == [to_half(value) for value in recorded["gate"][text][position]]
    everything = choose_sample(corpus, SMALL.model_copy(update={"sample_positions": 10**6}))
    assert len(everything.hash) == corpus.n_counted
    assert set(merged.sample_hash.tolist()) == set(sorted(everything.hash.tolist())[:7])


@pytest.mark.parametrize(("layer", "other"), [(0, 2), (2, 0)])
@pytest.mark.parametrize("room", [100, 40])
def test_a_batch_that_does_not_fit_is_forwarded_in_halves(tmp_path: Path, layer: int, other: int, room: int) -> None:
    model, corpus, tried = tiny_llama(seed=1), corpus_of(ragged_texts(seed=3), pack_texts=10, shard_packs=2), list[int]()

    def fill(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # The first layer has taken the batch before: it must not take it again.
        tried.append(inputs[0].shape[-2])
        if tried[-1] > room:
            raise torch.OutOfMemoryError(f"there is room for {room} tokens only")

    model.layers[1].input_layernorm.register_forward_pre_hook(fill)
    with recording(layer, corpus) as recorded:
        merged = collect_merged(model, corpus, SMALL, tmp_path, layer, beside=(other,))
    assert_agrees(merged, brute_force(corpus, recorded, SMALL), recorded, corpus)
    assert max(tried) > room
    footers = [read_provenance(path) for path in (tmp_path / f"layer-{layer:02d}").rglob("statistics.parquet")]
    assert sum(footer.get("batches_halved", 0) for footer in footers) == sum(tokens > room for tokens in tried)


def test_a_text_that_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    def fill(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[-2] > 39:
            raise torch.OutOfMemoryError("there is no room for the longest text")

    model, corpus = tiny_llama(seed=1), corpus_of(ragged_texts(seed=3))
    model.layers[1].register_forward_pre_hook(fill)
    with pytest.raises(OutOfMemory, match=r"no memory for the forward pass of a text of 40 tokens; make corpus.text_tokens"):
        collect_in_memory(model, corpus, SMALL, tmp_path, layer=2)


def test_the_same_work_gives_the_same_bytes(tmp_path: Path) -> None:
    model, corpus = tiny_llama(2), corpus_of(ragged_texts(2), shard_packs=2)
    for run in ("first", "second"):
        collect_in_memory(model, corpus, SMALL, tmp_path / run)
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.parquet"))
    assert len(files) == 4 * corpus.n_shards
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_fewer_shards_leave_none_of_the_old_ones(tmp_path: Path) -> None:
    model, corpus = tiny_llama(2), corpus_of(ragged_texts(2))
    collect_in_memory(model, cut(corpus, 4), SMALL, tmp_path)
    collect_in_memory(model, cut(corpus, 2), SMALL, tmp_path)
    assert sorted(path.name for path in (tmp_path / "layer-00").glob("shard-*")) == ["shard-0000", "shard-0001"]
    assert read_aggregate(LayerShards(tmp_path, 0).shard(1)).layer == 0
