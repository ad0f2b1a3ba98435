"""The merge: associative, commutative, with an identity, closed over the files, and blind to the cut into shards."""

import json
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gluscope_assets.core.collect.shards import merge_shards
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import read_provenance
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets.core.paths import SHARD_MANIFEST, LayerShards
from gluscope_assets.core.tables.aggregate import NO_TOKEN, Aggregate, merge, read_aggregate
from gluscope_assets.core.tables.statistics import describe, scan_statistics
from gluscope_assets_tests.support.reference import TableModel, collect_in_memory, collect_merged, corpus_of, cut

OPTIONS = CollectionOptions(examples=4, window_before=3, window_after=2, sample_positions=20)

EXACT = (
    "count", "zero", "largest", "value", "post", "text", "position", "window_token", "window_gate", "window_in",
    "sample_hash", "sample_text", "sample_position", "sample_token", "sample_gate", "sample_in",
)  # fmt: skip
"""What stays identical to the byte under any order, grouping and cut."""


def assert_same(first: Aggregate, second: Aggregate) -> None:
    for name in EXACT:
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    np.testing.assert_allclose(first.sum, second.sum, rtol=1e-12)
    np.testing.assert_allclose(first.sum_of_squares, second.sum_of_squares, rtol=1e-12)
    assert first.positions == second.positions


def table_model(seed: int) -> TableModel:
    generator = torch.Generator().manual_seed(seed)
    # Few distinct values, so that texts tie, and one too large for float16.
    values = torch.tensor([-2.0, -1.2784645, -0.5, 0.0, 0.5, 1.0, 7e4])
    return TableModel(*(values[torch.randint(0, 7, (6, 2), generator=generator)] for _ in range(2)))


def random_texts(seed: int, count: int = 40) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 6, generator.integers(1, 9)).tolist() for _ in range(count)]


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), shards=st.integers(1, 7), data=st.data())
def test_any_cut_order_and_grouping_gives_the_same_aggregate(
    tmp_path_factory: pytest.TempPathFactory, seed: int, shards: int, data: st.DataObject
) -> None:
    model, corpus = table_model(seed), corpus_of(random_texts(seed), pack_texts=2)
    whole = collect_merged(model, corpus, OPTIONS, tmp_path_factory.mktemp("whole"))
    parts = collect_in_memory(model, cut(corpus, shards), OPTIONS, tmp_path_factory.mktemp("parts"))
    shuffled = data.draw(st.permutations(parts), label="order")
    while len(shuffled) > 1:
        at = data.draw(st.integers(0, len(shuffled) - 2), label="grouping")
        shuffled[at : at + 2] = [merge(shuffled[at], shuffled[at + 1])]
    assert_same(shuffled[0], whole)


def of_nothing(aggregate: Aggregate) -> Aggregate:
    """The merge's identity: an aggregate of the same neurons over no texts."""
    blank = {
        name: np.zeros_like(array)
        for name, array in vars(aggregate).items()
        if isinstance(array, np.ndarray) and name not in ("mlp", "expert", "index")
    }
    blank |= {name: array[:0] for name, array in blank.items() if name.startswith("sample_")}
    blank |= {name: blank[name].astype(np.float16) for name in ("window_gate", "window_in", "sample_gate", "sample_in")}
    blank["text"] -= 1
    blank["window_token"] += NO_TOKEN
    return replace(aggregate, **blank, positions=0)


def test_merging_with_the_identity_changes_nothing(tmp_path: Path) -> None:
    aggregate = collect_merged(table_model(1), corpus_of(random_texts(1)), OPTIONS, tmp_path)
    assert_same(merge(aggregate, of_nothing(aggregate)), aggregate)
    assert_same(merge(of_nothing(aggregate), aggregate), aggregate)
    assert_same(merge(of_nothing(aggregate), of_nothing(aggregate)), of_nothing(aggregate))


def test_sums_of_many_shards_lose_nothing(tmp_path: Path) -> None:
    parts = collect_in_memory(table_model(3), cut(corpus_of(random_texts(3)), 7), OPTIONS, tmp_path)
    merged = reduce(merge, parts * 50)
    exact = reduce(lambda total, part: total + part.sum.astype(np.longdouble), parts * 50, np.zeros_like(parts[0].sum))
    np.testing.assert_allclose(merged.sum, exact.astype(np.float64), rtol=1e-12)


def test_files_hold_the_aggregate_and_merging_them_again_gives_the_same_bytes(tmp_path: Path) -> None:
    corpus = cut(corpus_of(random_texts(5)), 3)
    parts = collect_in_memory(table_model(5), corpus, OPTIONS, tmp_path)
    merged = merge_shards(tmp_path, 0, tmp_path / "merged", {"study": "small"})
    assert_same(read_aggregate(tmp_path / "merged"), merged)
    assert_same(reduce(merge, parts), merged)
    merge_shards(tmp_path, 0, tmp_path / "again", {"study": "small"})
    for path in (tmp_path / "merged").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert read_provenance(tmp_path / "merged" / "examples.parquet")["study"] == "small"
    first = LayerShards(tmp_path, 0).shard(0)
    for path in (tmp_path / "merged").iterdir():
        assert pl.read_parquet_schema(path) == pl.read_parquet_schema(first / path.name), "a shard has the aggregate's schema"


def test_one_neuron_is_read_from_its_row_group_alone(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    model = TableModel(*(torch.randn(6, 200, generator=generator) for _ in range(2)))
    collect_in_memory(model, corpus_of(random_texts(1)), OPTIONS, tmp_path)
    path = LayerShards(tmp_path, 0).shard(0) / "examples.parquet"
    groups = pq.ParquetFile(path).metadata
    spans = [groups.row_group(number).column(1).statistics for number in range(groups.num_row_groups)]
    assert len(spans) > 2
    assert all(first.max < second.min for first, second in pairwise(spans)), "statistics say which group holds a neuron"
    cut_short = tmp_path / "cut.parquet"
    content = bytearray(path.read_bytes())
    for number in range(1, groups.num_row_groups):
        for place in range(2, groups.num_columns):
            chunk = groups.row_group(number).column(place)
            content[chunk.data_page_offset : chunk.data_page_offset + chunk.total_compressed_size] = bytes(
                chunk.total_compressed_size
            )
    cut_short.write_bytes(content)
    expected = pl.read_parquet(path).filter(pl.col("neuron") == 3)
    assert pl.scan_parquet(cut_short).filter(pl.col("neuron") == 3).collect().equals(expected), "no other group is read"


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    collect_in_memory(table_model(5), cut(corpus_of(random_texts(5)), 3), OPTIONS, tmp_path)
    LayerShards(tmp_path, 0).shard(1).rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="shard-0001.*run gluscope build"):
        merge_shards(tmp_path, 0, tmp_path / "merged", {})
    assert not (tmp_path / "merged").exists()


def test_shards_of_different_collections_do_not_mix(tmp_path: Path) -> None:
    corpus = cut(corpus_of(random_texts(5)), 2)
    collect_in_memory(table_model(5), corpus, OPTIONS, tmp_path)
    folder = LayerShards(tmp_path, 0).shard(1)
    manifest = json.loads((folder / SHARD_MANIFEST).read_text())
    (folder / SHARD_MANIFEST).write_text(json.dumps({**manifest, "computed_on": "another machine"}))
    with pytest.raises(InputError, match="another collection"):
        merge_shards(tmp_path, 0, tmp_path / "merged", {})


def test_derived_statistics_follow_from_sums_and_empty_quadrants_have_none(tmp_path: Path) -> None:
    model = TableModel(torch.tensor([[1.0], [2.0], [4.0]]), torch.ones(3, 1))
    corpus = corpus_of([[1, 2], [1]], special=())
    collect_in_memory(model, corpus, OPTIONS, tmp_path)
    row = scan_statistics([LayerShards(tmp_path, 0).shard(0)]).collect().row(0, named=True)
    assert row["gate+_in+_frequency"] == 1.0
    assert row["gate+_in+_gate_mean"] == pytest.approx(8 / 3)
    assert row["gate+_in+_gate_std"] == pytest.approx(np.std([2, 4, 2]))
    assert row["gate-_in+_frequency"] == 0.0
    assert row["gate-_in+_gate_mean"] is None
    assert row["gate-_in+_gate_std"] is None


def test_describe_keeps_rows_and_columns() -> None:
    from gluscope_assets.core.quadrants import ACTIVATIONS, QUADRANTS

    columns = {"positions": [4], "routed": [4]}
    for quadrant in QUADRANTS:
        columns[f"{quadrant}_count"] = [1]
        for activation in ACTIVATIONS:
            columns |= {f"{quadrant}_{activation}_sum": [2], f"{quadrant}_{activation}_sum_of_squares": [4]}
    described = describe(pl.LazyFrame(columns)).collect()
    assert set(columns) < set(described.columns)
    assert described["gate+_in+_post_std"].to_list() == [0.0]
