"""The paper's finding from the tables, against plain numpy in float64."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import write_parquet
from gluscope_assets.core.paths import LayerTables
from gluscope_assets.core.site.gate_finding import correlation, gate_frequency_finding

POSITIONS = 1000


def write_layer(
    folder: Path, layer: int, counts: np.ndarray, cosines: np.ndarray, routed: np.ndarray | None = None
) -> LayerTables:
    """One layer's tables: counts [2, neurons] of gate+ in+ and gate+ in-. Neurons stand in the weights in another order."""
    neurons = counts.shape[1]
    columns = {
        "neuron": pa.array(np.arange(neurons, dtype=np.int32)),
        "positions": pa.array(np.full(neurons, POSITIONS)),
        "gate+_in+_count": pa.array(counts[0]),
        "gate+_in-_count": pa.array(counts[1]),
    }
    if routed is not None:
        columns["routed"] = pa.array(routed)
    write_parquet(pa.table(columns), folder / f"{layer}" / "statistics.parquet", {})
    order = np.arange(neurons)[::-1]
    weights = {"neuron": pa.array(order.astype(np.int32)), "cos_in_out": pa.array(cosines.astype(np.float32)[order])}
    write_parquet(pa.table(weights), folder / f"weights-{layer}.parquet", {})
    return LayerTables("key", layer, folder / f"{layer}", folder / f"weights-{layer}.parquet")


def random_layer(seed: int, neurons: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, POSITIONS // 2, (2, neurons)), random.uniform(-1, 1, neurons).astype(np.float32)


@pytest.mark.parametrize("neurons", [3, 50, 3000])
def test_correlations_are_those_of_numpy(tmp_path: Path, neurons: int) -> None:
    data = {layer: random_layer(layer, neurons) for layer in (0, 4)}
    found = gate_frequency_finding("key", [write_layer(tmp_path, layer, *tables) for layer, tables in data.items()])
    assert (found.checkpoint, found.positions, found.routed) == ("key", POSITIONS, False)
    for layer in found.layers:
        counts, cosines = data[layer.layer]
        frequency = counts.sum(axis=0).astype(np.float64) / POSITIONS
        assert layer.neurons == neurons
        assert np.array_equal(layer.frequency, frequency)
        assert np.array_equal(layer.cosine, cosines.astype(np.float64))
        assert layer.correlation == pytest.approx(np.corrcoef(frequency, cosines.astype(np.float64))[0, 1], abs=1e-12)
        assert layer.mean_frequency == pytest.approx(frequency.mean())
        assert layer.mean_cosine == pytest.approx(cosines.astype(np.float64).mean(), abs=1e-12)


def test_experts_are_counted_over_what_is_routed_to_them(tmp_path: Path) -> None:
    counts, cosines = np.array([[10, 20, 0, 5], [10, 0, 0, 5]]), np.array([0.5, -0.5, 0.25, 0.0])
    found = gate_frequency_finding("key", [write_layer(tmp_path, 0, counts, cosines, np.array([40, 100, 0, POSITIONS]))])
    assert found.routed
    (layer,) = found.layers
    assert layer.frequency.tolist() == [0.5, 0.2, 0.01], "an expert that saw nothing has no frequency"
    assert layer.cosine.tolist() == [0.5, -0.5, 0.0]
    assert layer.correlation == pytest.approx(np.corrcoef(layer.frequency, layer.cosine)[0, 1])
    found = gate_frequency_finding("key", [write_layer(tmp_path, 1, counts, cosines, np.full(4, POSITIONS))])
    assert not found.routed


@pytest.mark.parametrize(
    ("first", "second"),
    [([], []), ([0.1, 0.2], [0.3, 0.1]), ([0.1, 0.1, 0.1], [0.1, 0.2, 0.3]), ([0.1, 0.2, 0.3], [0.7, 0.7, 0.7])],
)
def test_what_does_not_vary_has_no_correlation(first: list[float], second: list[float]) -> None:
    assert correlation(np.array(first), np.array(second)) is None


def test_correlations_never_leave_their_range() -> None:
    values = np.array([0.1, 0.2, 0.3 + 1e-17])
    assert correlation(values, -values) == -1.0
    assert correlation(values, values * 1e-200) == 1.0


def test_cosines_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    counts, cosines = random_layer(0, 6)
    cosines[2] = np.nan
    (layer,) = gate_frequency_finding("key", [write_layer(tmp_path, 0, counts, cosines)]).layers
    assert layer.neurons == 5
    assert layer.correlation is not None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    tables = write_layer(tmp_path, 0, *random_layer(0, 4))
    tables.weights.unlink()
    with pytest.raises(InputError, match="weights-0"):
        gate_frequency_finding("key", [tables])
