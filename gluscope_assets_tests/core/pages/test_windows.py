"""The lists that a page gets, against the stored examples they are cut and oriented from."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluscope_assets.core.pages.windows import MOST_AFTER, MOST_BEFORE, MOST_EXAMPLES, RankedExamples
from gluscope_assets.core.quadrants import QUADRANTS, oriented_quadrant
from gluscope_assets.core.tables.examples import ExampleLists

NAMES = tuple((quadrant, ranked) for quadrant in QUADRANTS for ranked in ("gate", "post"))


@pytest.mark.parametrize("number", [np.float16, np.float32])
@given(seed=st.integers(0, 1 << 16), signs=st.lists(st.sampled_from([1, -1]), min_size=1, max_size=4))
def test_a_page_gets_the_lists_of_its_view_cut_to_what_it_shows(number: type, seed: int, signs: list[int]) -> None:
    generator = np.random.default_rng(seed)

    def example() -> dict[str, Any]:
        length = int(generator.integers(1, 100))
        start = int(generator.integers(0, 50))
        gate, in_ = generator.normal(size=(2, length)).astype(number)
        if generator.random() < 0.2:
            gate[0] = in_[0] = np.nan  # not routed here
        position, token = start + int(generator.integers(length)), generator.integers(0, 99, length).tolist()
        value, post = generator.normal(size=2).astype(np.float32).tolist()
        return {
            "value": value, "post": post, "text": int(generator.integers(9)), "position": position, "start": start,
            "token": token, "gate": list(gate), "in": list(in_),
        }  # fmt: skip

    stored = {name: [[example() for _ in range(generator.integers(0, MOST_EXAMPLES + 3))] for _ in signs] for name in NAMES}
    of_cells = pa.list_(pa.from_numpy_dtype(number))
    kinds = {"value": pa.float32(), "post": pa.float32(), "token": pa.list_(pa.int32()), "gate": of_cells, "in": of_cells}
    row = pa.struct([(name, kinds.get(name, pa.int32())) for name in example()])
    columns = {name: ExampleLists.from_arrow(pa.array(lists, pa.list_(row))) for name, lists in stored.items()}
    ranked = RankedExamples(columns, NAMES, np.array(signs))
    for neuron, sign in enumerate(signs):
        shown = ranked.of(neuron)
        expected = [stored[oriented_quadrant(quadrant, sign), of][neuron][:MOST_EXAMPLES] for quadrant, of in NAMES]
        assert shown.lists == [len(examples) for examples in expected]
        odd = [of == "post" for (_, of), examples in zip(NAMES, expected, strict=True) for _ in examples]
        cell = 0
        for at, one in enumerate(example for examples in expected for example in examples):
            assert shown.value[at] == (sign if odd[at] else 1) * one["value"]
            assert shown.post[at] == sign * one["post"]
            assert (shown.text[at], shown.position[at]) == (one["text"], one["position"])
            cells_of_one = [
                (token, gate, sign * in_)
                for place, token, gate, in_ in zip(range(one["start"], 999), one["token"], one["gate"], one["in"], strict=False)
                if -MOST_BEFORE <= place - one["position"] <= MOST_AFTER
            ]
            assert shown.low[at] == max(one["start"], one["position"] - MOST_BEFORE)
            cells = slice(cell, cell := cell + int(shown.length[at]))
            for values, wanted in zip((shown.token, shown.gate, shown.in_), zip(*cells_of_one, strict=True), strict=True):
                np.testing.assert_array_equal(values[cells], wanted)
        assert cell == len(shown.token)
        valued = np.arange(cell) if shown.valued is None else shown.valued
        np.testing.assert_array_equal(valued, np.flatnonzero(~np.isnan(shown.gate)))
        assert shown.gate.dtype == number
