"""Lists of examples: what is written is read again, in all parts and from any cut, and what has no peak is left out."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluscope_assets.core.tables import schema
from gluscope_assets.core.tables.examples import ExampleLists, lack_peaks

FLOATS = st.floats(-100, 100, width=16)
CELLS = st.lists(st.tuples(st.integers(0, 9), FLOATS, FLOATS, st.booleans()), max_size=3)
EXAMPLES = st.tuples(FLOATS, FLOATS, st.integers(0, 9), st.integers(0, 9), CELLS)
NEURONS = st.lists(st.lists(EXAMPLES, max_size=3), min_size=1, max_size=4)


def entry(example: tuple[Any, ...]) -> dict[str, Any]:
    value, post, text, start, cells = example
    known = [None if routed_elsewhere else (gate, in_) for _, gate, in_, routed_elsewhere in cells]
    return {
        "value": value,
        "post": post,
        "text": text,
        "position": start + len(cells),
        "start": start,
        "token": [token for token, *_ in cells],
        "gate": [one and one[0] for one in known],
        "in": [one and one[1] for one in known],
    }


@pytest.mark.parametrize("number", [pa.float16(), pa.float32()])
@given(neurons=NEURONS, data=st.data())
def test_what_is_written_is_read_again(number: pa.DataType, neurons: list[list[Any]], data: st.DataObject) -> None:
    kinds = {one.name: one.type for one in schema.EXAMPLE.stored} | {"gate": pa.list_(number), "in": pa.list_(number)}
    rows = [[entry(example) for example in examples] for examples in neurons]
    whole = pa.array(rows, pa.list_(pa.struct(list(kinds.items()))))
    begin = data.draw(st.integers(0, len(rows)), label="begin")
    column = whole.slice(begin, data.draw(st.integers(0, len(rows) - begin), label="length"))
    lists = ExampleLists.from_arrow(column)
    assert lists["gate"].dtype == number.to_pandas_dtype()
    assert lists["text"].dtype == np.int64
    again = lists.to_arrow()
    assert again.to_pylist() == column.to_pylist()
    assert again.type == column.type
    in_chunks = ExampleLists.from_arrow(pa.chunked_array([column, column]))
    assert in_chunks.to_arrow().to_pylist() == 2 * column.to_pylist()


def test_a_part_of_the_fields_can_be_read() -> None:
    column = pa.array(
        [[{"post": 1.5, "text": 2}], None, []], pa.list_(pa.struct([("post", pa.float32()), ("text", pa.int32())]))
    )
    lists = ExampleLists.from_arrow(column)
    assert lists.first.tolist() == [0, 1, 1, 1]
    assert list(lists.fields) == ["post", "text"]
    with pytest.raises(KeyError, match="value"):
        lists.to_arrow()


def test_examples_without_a_peak_are_left_out_where_positions_are_read() -> None:
    lengths = np.array([0, 2, 1])
    fields = {
        "value": np.float32([1, 2, 3]),
        **dict.fromkeys(("post", "position", "start")),
        "text": np.array([4, 5, 6]),
        "token": np.zeros(0, np.int32),
        **{name: np.zeros(0, np.float16) for name in ("gate", "in")},
    }
    column = ExampleLists(np.cumsum([0, *lengths]), np.zeros(4, dtype=np.int64), fields).to_arrow()
    assert column.type == schema.EXAMPLES["gate+_in+_gate"].type
    table = pa.table({"neuron": [0, 1, 2], "gate+_in+_gate": column})
    assert lack_peaks(table)
    assert not lack_peaks(table.slice(0, 1))
    rows = column.to_pylist()
    rows[1][1] |= {"position": 7, "start": 7}
    mixed = pa.array(rows, column.type)
    lists = ExampleLists.from_arrow(mixed.slice(1))
    assert (lists.first.tolist(), lists["text"].tolist()) == ([0, 1, 1], [5])
    texts = pa.array([[{"text": one["text"]} for one in row] for row in rows], pa.list_(pa.struct([("text", pa.int32())])))
    assert ExampleLists.from_arrow(texts)["text"].tolist() == [4, 5, 6]
