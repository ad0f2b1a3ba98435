"""The reduction's two formulations against each other, float64 and what memory allows. Brute force is in test_collect."""

import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gluscope_assets.core.collect import kernel, reduction
from gluscope_assets.core.collect.forward import Batch
from gluscope_assets.core.collect.reduction import LayerState, text_statistics
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.gated_mlp import Activations
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets_tests.support.reference import mlp_of

OPTIONS = CollectionOptions(examples=4, window_before=5, window_after=3)
NONE = torch.zeros(0, dtype=torch.int64)
EXACT = ("count", "largest", "value", "post", "text", "position")

needs_compiler = pytest.mark.skipif(kernel.load() is None, reason="no C compiler on this machine")


def activations_of(gate: Tensor, in_: Tensor) -> Activations:
    act = nn.functional.silu(gate)
    return Activations(gate, in_, act, act * in_)


def batch_of(lengths: list[int], counted: np.ndarray | None = None, first_text: int = 0) -> Batch:
    tokens = sum(lengths)
    text = np.arange(first_text, first_text + len(lengths), dtype=np.int32)
    counted = np.ones(tokens, bool) if counted is None else counted
    return Batch.whole(text, np.array(lengths), np.zeros(tokens, np.int64), counted)


def reduce_all(batches: list[tuple[Activations, Batch]], options: CollectionOptions = OPTIONS) -> LayerState:
    state = LayerState(mlp_of(batches[0][0].gate.shape[1]), options, "cpu")
    for activations, batch in batches:
        state.reduce(activations, batch, NONE, NONE)
    return state


def windows_of(state: LayerState) -> list[Tensor]:
    slot = state.slot[..., None]
    return [stored.gather(1, slot.expand(stored.shape)) for stored in state.windows]


def random_batches(seed: int, width: int, lengths: list[list[int]], large: bool) -> list[tuple[Activations, Batch]]:
    generator = torch.Generator().manual_seed(seed)
    # Values on a coarse grid, so that texts tie; some are 0, and some do not fit float16.
    grid = torch.tensor([-3.0, -1.2784645, -1.0, -1e-30, -0.0, 0.0, 1e-40, 0.25, 1.0, 2.5, *([8e4] if large else [])])
    batches, first = [], 0
    for part in lengths:
        gate, in_ = (grid[torch.randint(0, len(grid), (sum(part), width), generator=generator)] for _ in range(2))
        counted = torch.rand(sum(part), generator=generator).numpy() > 0.2
        batches.append((activations_of(gate, in_), batch_of(part, counted, first)))
        first += len(part)
    return batches


@needs_compiler
@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    width=st.sampled_from([1, 3, 4, 9, 63, 64, 65, 130]),
    lengths=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=7), min_size=1, max_size=4),
    examples=st.integers(1, 6),
    large=st.booleans(),
)
def test_the_kernel_and_plain_torch_give_the_same(
    seed: int, width: int, lengths: list[list[int]], examples: int, large: bool
) -> None:
    options = OPTIONS.model_copy(update={"examples": examples})
    batches = random_batches(seed, width, lengths, large)
    fast = reduce_all(batches, options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "load", lambda: None)
        plain = reduce_all(batches, options)
    for name in EXACT:
        assert torch.equal(getattr(fast, name), getattr(plain, name)), name
    for first, second in zip(windows_of(fast), windows_of(plain), strict=True):
        assert torch.equal(first.float(), second.float())
    torch.testing.assert_close(fast.sum, plain.sum, rtol=1e-12, atol=0)
    torch.testing.assert_close(fast.sum_of_squares, plain.sum_of_squares, rtol=1e-12, atol=0)


@needs_compiler
def test_texts_may_come_in_any_order() -> None:
    batches = random_batches(7, 5, [[4, 9, 1], [7, 7], [3]], large=True)
    forward, backward = reduce_all(batches), reduce_all(batches[::-1])
    for name in EXACT:
        assert torch.equal(getattr(forward, name), getattr(backward, name)), name


@pytest.mark.parametrize("formulation", ["C kernel", "plain torch"])
def test_sums_of_20_million_adversarial_values_are_exact_to_1e_9(formulation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if formulation == "plain torch":
        monkeypatch.setattr(kernel, "load", lambda: None)
    elif kernel.load() is None:
        pytest.skip("no C compiler on this machine")
    tokens, batches = 1_000_000, 20
    random = np.random.default_rng(0)
    # Equal rounding errors that add up; one huge value among many tiny ones; magnitudes over 60 binary orders.
    constant = np.full(tokens, 0.1, np.float32)
    spiked = np.where(np.arange(tokens) % 1000 == 0, np.float32(1e6), np.float32(1e-3))
    spread = (2.0 ** random.uniform(-40, 20, tokens)).astype(np.float32)
    gate = torch.from_numpy(np.stack([constant, spiked, spread], axis=1))
    activations = activations_of(gate, gate.flip(0))
    texts = [250] * (tokens // 250)
    state = reduce_all([(activations, batch_of(texts, first_text=number * len(texts))) for number in range(batches)])
    parts = (activations.gate, activations.in_, activations.act, activations.post)
    for number, part in enumerate(parts):
        assert part is not None
        for neuron in range(3):
            exact = batches * math.fsum(part[:, neuron].tolist())
            assert float(state.sum[0, number, neuron]) == pytest.approx(exact, rel=1e-9)
            squares = batches * math.fsum((part[:, neuron].double() ** 2).tolist())
            assert float(state.sum_of_squares[0, number, neuron]) == pytest.approx(squares, rel=1e-9)


def test_running_out_of_memory_halves_what_is_done_at_once_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernel, "load", lambda: None)
    batches = random_batches(3, 8, [[9, 9, 9, 9, 9, 9, 9], [5, 30]], large=False)
    expected = reduce_all(batches[:1])

    def small_memory(gate: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        if gate.numel() > 2 * 9 * 8:
            raise torch.OutOfMemoryError("there is room for two texts only")
        return text_statistics(gate, *others)

    monkeypatch.setattr(reduction, "text_statistics", small_memory)
    found = reduce_all(batches[:1])
    assert "Out of memory" in caplog.text
    for name in EXACT:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for first, second in zip(windows_of(found), windows_of(expected), strict=True):
        assert torch.equal(first, second)
    torch.testing.assert_close(found.sum, expected.sum, rtol=1e-12, atol=0)
    with pytest.raises(InputError, match="no memory left to reduce layer 0"):
        reduce_all(batches[1:])


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler on this machine")
def test_the_compiled_formulation_of_gpus_gives_the_same(caplog: pytest.LogCaptureFixture) -> None:
    gate, in_ = torch.randn(2, 3, 20, 8).unbind()
    act = nn.functional.silu(gate)
    counted = (torch.rand(3, 20) > 0.2).float()
    compiled = reduction.compiled_text_statistics()(gate, in_, act, act * in_, counted)
    plain = text_statistics(gate, in_, act, act * in_, counted)
    assert "cannot be compiled" not in caplog.text
    assert torch.equal(compiled[0], plain[0])
    assert torch.equal(compiled[3], plain[3])
    torch.testing.assert_close(compiled[1], plain[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(compiled[2], plain[2], rtol=1e-12, atol=1e-12)


def test_without_a_compiler_a_line_in_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert kernel.load.__wrapped__() is None
    assert "no C compiler" in caplog.text
    monkeypatch.setenv("CC", "false")
    assert kernel.load.__wrapped__() is None
    assert "cannot compile kernel.c" in caplog.text


def test_windows_on_the_host_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a layer's windows do not fit the device: the state is spread over two devices, both of them this CPU here."""
    monkeypatch.setattr(kernel, "load", lambda: None)
    batches = random_batches(4, 6, [[9, 4], [12, 3, 3]], large=True)
    expected = windows_of(reduce_all(batches))
    zeros = torch.zeros

    def unpinned(*arguments: object, pin_memory: bool = False, **options: object) -> Tensor:
        return zeros(*arguments, **options)  # pinning needs a GPU

    monkeypatch.setattr(reduction.torch, "zeros", unpinned)
    state = LayerState(mlp_of(6), OPTIONS, "cpu", windows_on_host=True)
    for activations, batch in batches:
        state.reduce(activations, batch, NONE, NONE)
    for first, second in zip(windows_of(state), expected, strict=True):
        assert torch.equal(first, second)


def test_the_bytes_of_a_state_are_those_of_its_tensors() -> None:
    state = LayerState(mlp_of(7), OPTIONS, "cpu")
    tensors = (
        state.count, state.sum, state.sum_of_squares, state.largest,
        state.value, state.post, state.text, state.position, state.slot,
    )  # fmt: skip
    expected = LayerState.bytes_of(7, OPTIONS)
    assert (sum(tensor.nbytes for tensor in tensors), sum(window.nbytes for window in state.windows)) == expected
