"""The picture of gate and in: what lies where."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluscope_assets.core.model.activation import activation_function
from gluscope_assets.core.pages.density import MOST_TICKS, picture_of, ticks_of
from gluscope_assets.core.pages.distribution import SampledNeuron

SILU = activation_function("silu")


@pytest.mark.parametrize("size", [0, 1])
def test_a_sample_of_next_to_nothing_has_a_picture(size: int) -> None:
    values = np.zeros(size, dtype=np.float32)
    picture = picture_of(SampledNeuron.from_gate_and_in(values, values, 1, SILU).density())
    assert picture.most == size
    assert bool(picture.shades) == bool(size)


def test_the_picture_grows_upwards_and_to_the_right() -> None:
    gate = np.array([4, 4, -4], dtype=np.float32)
    in_ = np.array([8, 8, -8], dtype=np.float32)
    density = SampledNeuron.from_gate_and_in(gate, in_, 1, SILU).density()
    picture = picture_of(density)
    (faint, lower), (strong, upper) = picture.shades
    assert faint < strong
    assert upper == f"M{picture.columns - 1} 0.5h1"
    assert lower == f"M0 {picture.rows - 1}.5h1"
    assert picture.most == 2
    assert [tick.value for tick in picture.up] == sorted(tick.value for tick in picture.up)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_round_and_hold_zero(below: float, above: float) -> None:
    ticks = ticks_of(-below, above)
    numbers = [tick.value for tick in ticks]
    assert 1 <= len(numbers) <= MOST_TICKS
    assert all(round(tick.value, tick.decimals) == pytest.approx(tick.value) for tick in ticks)
    assert 0 in numbers
    assert all(-below * 1.000001 <= tick <= above * 1.000001 for tick in numbers)
