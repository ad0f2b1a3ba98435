"""Each check finds the error that it is there for, planted in an otherwise sound aggregate."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gluscope_assets.core.collect.verify import verify_aggregate
from gluscope_assets.core.files import read_provenance
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets.core.paths import LayerShards
from gluscope_assets.core.tables.aggregate import Aggregate, read_aggregate, write_aggregate
from gluscope_assets_tests.support.reference import TableModel, collect_in_memory, corpus_of

OPTIONS = CollectionOptions(examples=3, window_before=2, window_after=1, sample_positions=5)
CORPUS = corpus_of([[1, 2, 3], [4, 2, 1], [3, 3, 4, 1], [2], [0, 4]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    collect_in_memory(TableModel(torch.randn(5, 4), torch.randn(5, 4)), CORPUS, OPTIONS, tmp_path)
    return LayerShards(tmp_path, 0).shard(0)


def test_a_sound_aggregate_has_no_problems(folder: Path) -> None:
    assert not any(verify_aggregate(folder, CORPUS, OPTIONS).values())


def held(aggregate: Aggregate) -> tuple[int, int]:
    """A list and a neuron with at least two examples."""
    numbers, neurons = np.nonzero(aggregate.text[:, :, 1] >= 0)
    return int(numbers[0]), int(neurons[0])


def swap_first_two(aggregate: Aggregate) -> None:
    number, neuron = held(aggregate)
    for name in ("value", "post", "text", "position", "window_token", "window_gate", "window_in"):
        cells = getattr(aggregate, name)[number, neuron]
        cells[[0, 1]] = cells[[1, 0]]


def repeat_a_text(aggregate: Aggregate) -> None:
    number, neuron = held(aggregate)
    aggregate.text[number, neuron, 1] = aggregate.text[number, neuron, 0]


def lose_a_position(aggregate: Aggregate) -> None:
    aggregate.zero[2] -= 1


def flip_a_gate(aggregate: Aggregate) -> None:
    number, neuron = held(aggregate)
    aggregate.window_gate[number, neuron, 0] *= -1


def flip_a_sum(aggregate: Aggregate) -> None:
    aggregate.sum[0, 0] *= -1


def inflate_a_sum(aggregate: Aggregate) -> None:
    aggregate.sum[:, 3] *= 3


def break_a_number(aggregate: Aggregate) -> None:
    aggregate.sum[0, 1, np.flatnonzero(aggregate.count[0])[0]] = np.nan


def change_a_post(aggregate: Aggregate) -> None:
    number, neuron = held(aggregate)
    aggregate.post[number, neuron, 0] *= 1.1


def change_a_value(aggregate: Aggregate) -> None:
    aggregate.value[0] *= 1.01


def shift_a_window(aggregate: Aggregate) -> None:
    number, neuron = held(aggregate)
    aggregate.position[number, neuron, 0] += 1


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (lose_a_position, "counts_add_up"),
        (flip_a_gate, "signs_fit_quadrants"),
        (flip_a_sum, "signs_fit_quadrants"),
        (swap_first_two, "lists_are_ordered"),
        (repeat_a_text, "lists_are_ordered"),
        (inflate_a_sum, "sums_fit_largest"),
        (change_a_value, "sums_fit_largest"),
        (break_a_number, "nothing_is_nan"),
        (change_a_post, "post_is_act_times_in"),
        (change_a_value, "windows_hold_their_peak"),
        (shift_a_window, "windows_hold_their_peak"),
    ],
)
def test_planted_errors_are_found(folder: Path, plant: Callable[[Aggregate], None], check: str) -> None:
    aggregate = read_aggregate(folder)
    for name, value in vars(aggregate).items():
        if isinstance(value, np.ndarray):
            setattr(aggregate, name, value.copy())
    plant(aggregate)
    write_aggregate(aggregate, folder, read_provenance(folder / "statistics.parquet"))
    problems = verify_aggregate(folder, CORPUS, OPTIONS)
    assert problems[check], problems
    assert all(sentence.startswith("Layer 0, ") and sentence.endswith(").") for sentence in problems[check])
