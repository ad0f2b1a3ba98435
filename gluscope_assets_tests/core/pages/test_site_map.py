"""How the manifest says which pages there are, and which neurons of a layer belong to which MLP."""

from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluscope_assets.core.files import write_parquet
from gluscope_assets.core.pages.site_map import MlpBlock, mlp_blocks_of, neuron_ranges


@given(st.sets(st.integers(0, 60)))
def test_ranges_hold_the_same_neurons(neurons: set[int]) -> None:
    ranges = neuron_ranges(sorted(neurons))
    assert [neuron for first, end in ranges for neuron in range(first, end)] == sorted(neurons)
    assert all(first < end for first, end in ranges)
    assert all(before[1] < after[0] for before, after in pairwise(ranges))


@pytest.mark.parametrize(
    ("layout", "blocks"),
    [
        ([("mlp", None, 5)], ()),
        ([("mlp.experts", 3, 4)], (MlpBlock("mlp.experts", 3, 0, 12),)),
        ([("mlp.experts", 1, 4)], (MlpBlock("mlp.experts", 1, 0, 4),)),
        (
            [("mlp.experts", 3, 4), ("mlp.shared_expert", None, 2)],
            (MlpBlock("mlp.experts", 3, 0, 12), MlpBlock("mlp.shared_expert", None, 12, 2)),
        ),
        ([("first", None, 3), ("second", None, 2)], (MlpBlock("first", None, 0, 3), MlpBlock("second", None, 3, 2))),
        ([("first", 2, 1), ("second", 3, 1)], (MlpBlock("first", 2, 0, 2), MlpBlock("second", 3, 2, 3))),
    ],
)
def test_blocks_are_the_runs_of_the_statistics(
    tmp_path: Path, layout: list[tuple[str, int | None, int]], blocks: tuple[MlpBlock, ...]
) -> None:
    rows = [
        {"mlp": mlp, "expert": expert, "index": index}
        for mlp, experts, width in layout
        for expert in ([None] if experts is None else range(experts))
        for index in range(width)
    ]
    table = pa.table(
        {
            "mlp": pa.array([row["mlp"] for row in rows]),
            "expert": pa.array([row["expert"] for row in rows], pa.int32()),
            "index": pa.array([row["index"] for row in rows], pa.int32()),
        }
    )
    write_parquet(table, tmp_path / "statistics.parquet", {})
    assert mlp_blocks_of(tmp_path / "statistics.parquet") == blocks
