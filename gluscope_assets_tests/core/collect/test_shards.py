"""Shards: finished or not, claimed by one process at a time, the same whoever makes them and however often he is killed."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from gluscope_assets.core.collect import job as collect_module
from gluscope_assets.core.collect import shards
from gluscope_assets.core.collect.job import Collection, Job, collect
from gluscope_assets.core.collect.shards import (
    claimed,
    merge_layers,
    read_record,
    read_shard_manifest,
)
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.paths import AGGREGATE_FILES, SHARD_MANIFEST, LayerShards
from gluscope_assets.core.tables.aggregate import Aggregate
from gluscope_assets_tests.benchmarks.soak import CONTEXT, files_of, kill_until_done, small_collection


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """A finished collection in several shards. Shared: tests must not change it."""
    collection = small_collection(tmp_path_factory.mktemp("collection"), "undisturbed")
    report = collect(collection, ["cpu"])
    assert report.shards > 7
    return collection


def beside(collection: Collection, root: str) -> Collection:
    """The same collection, not begun, in another folder."""
    return collection.model_copy(update={"root": collection.root.parent / root})


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_any_number_of_processes_gives_the_same_files(undisturbed: Collection, processes: int) -> None:
    collection = beside(undisturbed, f"{processes} processes")
    tokens = []
    report = collect(collection, ["cpu"], lambda done, total: tokens.append((done, total)), processes)
    assert report.workers == processes
    assert files_of(collection.root) == files_of(undisturbed.root)
    assert tokens[-1][0] == tokens[-1][1] == report.tokens


def test_killing_it_five_times_changes_nothing(undisturbed: Collection) -> None:
    collection = beside(undisturbed, "killed")
    assert kill_until_done(collection, kills=5, seed=1) > 0
    assert files_of(collection.root) == files_of(undisturbed.root)
    assert sorted(path.name for path in LayerShards(collection.root, 0).folder.iterdir()) == sorted(
        path.name for path in LayerShards(undisturbed.root, 0).folder.iterdir()
    ), "nothing half-written stays"


def test_what_a_killed_process_left_is_done_by_the_next(undisturbed: Collection) -> None:
    collection = beside(undisturbed, "left")
    process = CONTEXT.Process(target=claim_and_die, args=(collection,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    collect(collection, ["cpu"])
    assert files_of(collection.root) == files_of(undisturbed.root)


def claim_and_die(collection: Collection) -> None:
    """Die while holding a claim and after writing half of a shard."""
    with claimed(collection.root, 0) as mine:
        assert mine
        folder = LayerShards(collection.root, 0).folder / ".shard-0000.half"
        folder.mkdir(parents=True)
        (folder / "statistics.parquet").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_only_unfinished_shards_are_done_again(undisturbed: Collection) -> None:
    collection = beside(undisturbed, "resumed")
    whole = collect(collection, ["cpu"])
    assert (whole.resumed, whole.tokens) == (0, Job(collection, "cpu").corpus.n_tokens)
    again = collect(collection, ["cpu"])
    assert (again.resumed, again.tokens, again.workers) == (again.shards, 0, 0)
    assert again.frequency == whole.frequency
    (LayerShards(collection.root, 1).shard(2) / "sample.parquet").unlink()
    third = collect(collection, ["cpu"])
    assert third.resumed == whole.shards - 1
    assert files_of(collection.root) == files_of(undisturbed.root)


def test_appended_texts_cost_their_own_shards_alone(undisturbed: Collection, tmp_path: Path) -> None:
    folder = tmp_path / "grown"
    shutil.copytree(undisturbed.root.parent / "corpus", folder / "corpus")
    collection = small_collection(folder, "collected").model_copy(update={"origin": "the same model and options"})
    before = Job(collection, "cpu").corpus
    collect(collection, ["cpu"])
    for number in range(40):
        # Files are read in the order of their names.
        (folder / "corpus" / f"z-{number:02d}.txt").write_text(f"More text, number {number}. " * 5)
    (folder / "texts.parquet").unlink()
    grown = small_collection(folder, "collected").model_copy(
        update={"origin": "the same model and options", "provenance": {"fingerprint": "another corpus"}}
    )
    after = Job(grown, "cpu").corpus
    kept = [shard for shard in range(before.n_shards) if after.hash_of_shard(shard) == before.hash_of_shard(shard)]
    assert len(kept) == before.n_shards - 1, "all but the last, which was not full"
    report = collect(grown, ["cpu"])
    assert report.shards > before.n_shards + 1
    assert report.resumed == len(kept)
    assert report.tokens == Job(grown, "cpu").tokens_of(range(len(kept), report.shards))

    anew = grown.model_copy(update={"root": folder / "anew"})
    collect(anew, ["cpu"])
    for name, one in (("grown", grown), ("anew", anew)):
        merge_layers(one.root, [0, 1], lambda layer, name=name: tmp_path / name / str(layer), lambda layer: {})
    assert files_of(tmp_path / "grown" / "0") == files_of(tmp_path / "anew" / "0")
    assert files_of(tmp_path / "grown" / "1") == files_of(tmp_path / "anew" / "1")


def test_shards_made_from_other_things_or_elsewhere_are_done_again(undisturbed: Collection) -> None:
    collection = beside(undisturbed, "other")
    collect(collection, ["cpu"])
    for shard, changed in ((0, {"fingerprint": "older"}), (1, {"computed_on": "another machine"})):
        path = LayerShards(collection.root, 0).shard(shard) / SHARD_MANIFEST
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    (LayerShards(collection.root, 0).shard(3) / SHARD_MANIFEST).write_text("{")
    report = collect(collection, ["cpu"])
    assert report.resumed == report.shards - 3
    assert files_of(collection.root) == files_of(undisturbed.root)


def test_writing_a_shard_beside_the_next_one_changes_nothing(undisturbed: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a GPU: a shard stays claimed until it is written."""
    collection = beside(undisturbed, "written beside")
    monkeypatch.setattr(Job, "writes_beside", True)
    write = shards.write_shard
    claimable: list[bool] = []

    def watched(aggregate: Aggregate, root: Path, shard: int, *others: Any) -> None:
        with claimed(root, shard) as free:
            claimable.append(free)
        write(aggregate, root, shard, *others)

    monkeypatch.setattr(shards, "write_shard", watched)
    report = collect(collection, ["cpu"])
    assert claimable == [False] * report.shards * 2
    assert files_of(collection.root) == files_of(undisturbed.root)


def test_a_claim_excludes_everyone_else_until_it_is_given_back(tmp_path: Path) -> None:
    with claimed(tmp_path, 4) as mine, claimed(tmp_path, 4) as theirs, claimed(tmp_path, 5) as other:
        assert (mine, theirs, other) == (True, False, True)
    with claimed(tmp_path, 4) as mine:
        assert mine


def test_a_shard_that_another_process_works_on_is_waited_for(undisturbed: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = beside(undisturbed, "waited for")
    waited: list[float] = []
    claim = claimed(collection.root, 1)
    assert claim.__enter__()

    def release(seconds: float) -> None:
        waited.append(seconds)
        claim.__exit__(None, None, None)

    monkeypatch.setattr(collect_module.time, "sleep", release)
    collect(collection, ["cpu"])
    assert waited == [collect_module.POLL_SECONDS]
    assert files_of(collection.root) == files_of(undisturbed.root)


def test_merged_shards_can_be_dropped_and_are_then_reported_gone(undisturbed: Collection, tmp_path: Path) -> None:
    collection = beside(undisturbed, "dropped")
    report = collect(collection, ["cpu"])
    merged = merge_layers(collection.root, [0, 1], lambda layer: tmp_path / f"{layer}", lambda layer: {}, drop=True)
    for layer in (0, 1):
        assert merged[layer].shard_bytes == report.bytes[layer] > 0
        assert merged[layer].shards == report.shards
        assert {path.name for path in (tmp_path / f"{layer}").iterdir()} == set(AGGREGATE_FILES)
    assert not list(collection.root.rglob("*.parquet"))
    assert read_record(LayerShards(collection.root, 0)).fingerprint == "soak"
    assert read_shard_manifest(LayerShards(collection.root, 0).shard(0)).shard == 0
    with pytest.raises(InputError, match="shard-0000 are gone or damaged; delete .*collection.json and run gluscope build"):
        shards.merge_shards(collection.root, 0, tmp_path / "again", {})
    assert not (tmp_path / "again").exists()
    collect(collection, ["cpu"])
    assert files_of(collection.root) == files_of(undisturbed.root)
