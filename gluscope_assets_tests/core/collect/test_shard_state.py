"""The order in which threads fold batches into a shard. What a shard holds is compared with brute force in test_job."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gluscope_assets.core.collect.shard_state import ShardState, Turns, windows_on_host
from gluscope_assets.core.collect.workers import Abandoned
from gluscope_assets.core.corpus.sample import choose_sample
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets_tests.support.reference import corpus_of, mlp_of

OPTIONS = CollectionOptions(examples=2, window_before=1, window_after=2, sample_positions=5)


def test_each_block_takes_batches_in_their_order_whoever_comes_first() -> None:
    turns, taken = Turns(["first", "second"]), dict[str, list[int]]()
    generator = random.Random(0)

    def take(number: int) -> None:
        with turns.abandoned_on_error():
            for block in ("first", "second"):
                time.sleep(generator.uniform(0, 0.003))
                with turns.turn(block, number):
                    taken.setdefault(block, []).append(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(take, range(20)))
    assert taken == {"first": list(range(20)), "second": list(range(20))}


def test_a_turn_that_does_not_end_lets_the_same_batch_come_again_and_no_other() -> None:
    turns = Turns(["block"])
    with turns.turn("block", 0, ends=False):
        pass
    assert turns.next["block"] == 0
    with turns.turn("block", 0):
        pass
    assert turns.next["block"] == 1


def test_who_waits_for_a_thread_that_failed_is_abandoned() -> None:
    turns = Turns(["block"])

    def fail() -> None:
        with turns.abandoned_on_error():
            raise OSError("no space is left")

    def wait() -> None:
        with turns.turn("block", 1):
            raise AssertionError("the first batch never had its turn")

    with ThreadPoolExecutor(2) as pool:
        waiting, failing = pool.submit(wait), pool.submit(fail)
        with pytest.raises(OSError, match="no space is left"):
            failing.result()
        with pytest.raises(Abandoned):
            waiting.result()


def test_a_shard_counts_and_samples_its_own_texts() -> None:
    corpus = corpus_of([[0, 5, 6], [0, 7], [0, 8, 9, 8]])
    sample = choose_sample(corpus, OPTIONS)
    states = [ShardState(corpus, np.array(texts), [mlp_of(3)], OPTIONS, sample, "cpu") for texts in ([0, 1], [2])]
    assert [state.positions for state in states] == [3, 3]
    hashes = [state.sampled.hash.tolist() for state in states]
    assert sorted(hashes[0] + hashes[1]) == sorted(sample.hash.tolist())
    assert [sorted(set(state.sampled.text.tolist())) for state in states] == [[0, 1], [2]]
    assert all(of_shard == sorted(of_shard) for of_shard in hashes)
    assert not windows_on_host([mlp_of(3)], OPTIONS, "cpu")
