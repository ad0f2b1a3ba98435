"""What pages read off the position sample, against numpy in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gluscope_assets.core.model.activation import activation_function
from gluscope_assets.core.pages.distribution import (
    EXAMPLE_QUANTILES,
    QUANTILES,
    RANDOM_EXAMPLES,
    SampledNeuron,
    frequency_interval,
)
from gluscope_assets.core.quadrants import ACTIVATIONS, QUADRANTS

SILU = activation_function("silu")
HALVES = hnp.arrays(np.float16, 200, elements=st.floats(-100, 100, width=16))


def neuron(seed: int = 0, size: int = 1000, sign: int = 1) -> SampledNeuron:
    gate, in_ = np.random.default_rng(seed).standard_normal((2, size)).astype(np.float16).astype(np.float32)
    gate[3], in_[5] = 0, 0
    return SampledNeuron.from_gate_and_in(gate, in_, sign, SILU)


def inside(sampled: SampledNeuron, quadrant: str) -> np.ndarray:
    gate, in_ = sampled.values[:2]
    return (np.sign(gate) == (1 if quadrant[4] == "+" else -1)) & (np.sign(in_) == (1 if quadrant[-1] == "+" else -1))


@pytest.mark.parametrize("sign", [1, -1])
def test_quantiles_are_those_of_the_quadrant(sign: int) -> None:
    sampled = neuron(sign=sign)
    for quadrant, found in zip(QUADRANTS, sampled.quantiles(), strict=True):
        for activation, values in zip(ACTIVATIONS, sampled.values, strict=True):
            expected = np.quantile(values[inside(sampled, quadrant)].astype(np.float64), QUANTILES)
            assert found[activation] == pytest.approx(expected, rel=1e-6)


def test_counts_leave_zeros_out() -> None:
    sampled = neuron()
    assert sampled.counts() == [int(inside(sampled, quadrant).sum()) for quadrant in QUADRANTS]
    assert sum(sampled.counts()) == 998


def test_positions_of_other_experts_are_left_out() -> None:
    gate = np.array([1, np.nan, -2, np.nan], dtype=np.float32)
    sampled = SampledNeuron.from_gate_and_in(gate, gate, 1, SILU)
    assert sampled.index.tolist() == [0, 2]
    assert sampled.counts() == [1, 0, 0, 1]
    assert sampled.quantiles()[1] == {}


def test_random_examples_are_the_first_of_the_sample_in_their_quadrant() -> None:
    sampled = neuron()
    for number, quadrant in enumerate(QUADRANTS):
        expected = np.flatnonzero(inside(sampled, quadrant))[:RANDOM_EXAMPLES]
        assert sampled.random_examples(number).tolist() == expected.tolist()


@pytest.mark.parametrize("size", [4, 30, 1000])
def test_quantile_examples_have_the_post_of_their_quantile(size: int) -> None:
    sampled = neuron(size=max(size, 6))
    for number, quadrant in enumerate(QUADRANTS):
        places, quantiles = sampled.quantile_examples(number)
        posts = np.sort(np.abs(sampled.values[3][inside(sampled, quadrant)]))
        assert len(set(places.tolist())) == len(places) == len(quantiles) == min(len(places), len(EXAMPLE_QUANTILES))
        for place, quantile in zip(places, quantiles, strict=True):
            assert inside(sampled, quadrant)[place]
            assert abs(sampled.values[3][place]) == posts[round(quantile * (len(posts) - 1))]


@given(HALVES, HALVES)
def test_every_position_is_in_a_cell_of_its_quadrant(gate: np.ndarray, in_: np.ndarray) -> None:
    sampled = SampledNeuron.from_gate_and_in(gate.astype(np.float32), in_.astype(np.float32), 1, SILU)
    density = sampled.density()
    assert density.counts.sum() == len(gate)
    left, low = density.across.zero, density.up.zero
    assert 0 < left < density.across.cells
    assert 0 < low < density.up.cells
    assert density.counts[:, :left].sum() == (gate < 0).sum()
    assert density.counts[:low].sum() == (in_ < 0).sum()
    assert density.across.low + density.across.width * left == pytest.approx(0, abs=1e-6 * density.across.width)


def test_cells_are_those_of_a_histogram() -> None:
    sampled = neuron()
    density = sampled.density()
    edges = [side.low + side.width * np.arange(side.cells + 1) for side in (density.up, density.across)]
    expected, _, _ = np.histogram2d(sampled.values[1].astype(np.float64), sampled.values[0].astype(np.float64), bins=edges)
    assert np.abs(density.counts - expected).sum() <= 4, "only what lies on an edge may differ"


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_the_interval_solves_wilsons_equation(count: int, more: int) -> None:
    positions = count + more
    interval = frequency_interval(count, positions)
    if not positions:
        assert interval is None
        return
    assert interval is not None
    assert 0 <= interval[0] <= count / positions <= interval[1] <= 1
    for bound in interval:
        if 1e-9 < bound < 1 - 1e-9:
            # The bounds are where the observed share is 1.96 standard errors of the bound away.
            distance = abs(count / positions - bound)
            assert distance == pytest.approx(1.959964 * np.sqrt(bound * (1 - bound) / positions), rel=1e-4, abs=1e-12)
