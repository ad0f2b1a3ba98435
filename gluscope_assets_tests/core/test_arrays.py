"""Operations on arrays: edges that loops over the same would get right."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gluscope_assets.core.arrays import narrow, offsets_of, ranges
from gluscope_assets_tests.support.reference import to_half


@pytest.mark.parametrize("lengths", [[], [3], [0, 2, 0, 5]])
def test_offsets_cut_an_array_into_runs_of_these_lengths(lengths: list[int]) -> None:
    offsets = offsets_of(lengths)
    assert offsets.dtype == np.int64
    assert offsets[0] == 0
    assert np.diff(offsets).tolist() == lengths
    assert offsets_of(np.array(lengths, dtype=np.int32)).tolist() == offsets.tolist()


@pytest.mark.parametrize(
    ("first", "length", "numbers"),
    [
        ([], [], []),
        ([4], [0], []),
        ([4, 0, 9, 2], [2, 0, 1, 3], [4, 5, 9, 2, 3, 4]),
    ],
)
def test_ranges_count_from_each_first(first: list[int], length: list[int], numbers: list[int]) -> None:
    counted = ranges(np.array(first, dtype=np.int32), np.array(length, dtype=np.int64))
    assert counted.dtype == np.int64
    assert counted.tolist() == numbers


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_narrowing_keeps_signs_and_what_does_not_fit(value: float) -> None:
    narrowed, fits = narrow(torch.tensor([value]))
    assert float(narrowed[0]) == to_half(np.float32(value))
    assert fits == (abs(float(narrowed[0])) <= 65504)
    assert np.sign(float(narrowed[0])) == np.sign(np.float32(value))
