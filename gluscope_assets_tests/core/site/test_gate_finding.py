"""The paper's finding from the tables, against plain numpy in float64."""

import numpy as np
import polars as pl
import pytest

from gluscope_assets.core.site.gate_finding import Finding, correlation, layer_finding

POSITIONS = 1000


def rows_of(counts: np.ndarray, cosines: np.ndarray, routed: np.ndarray | None = None) -> pl.DataFrame:
    """The rows of one layer: counts [2, neurons] of gate+ in+ and gate+ in-."""
    neurons = counts.shape[1]
    return pl.DataFrame(
        {
            "positions": np.full(neurons, POSITIONS),
            "routed": np.full(neurons, POSITIONS) if routed is None else routed,
            "gate+_in+_count": counts[0],
            "gate+_in-_count": counts[1],
            "cos_in_out": cosines.astype(np.float64),
        }
    )


def random_layer(seed: int, neurons: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, POSITIONS // 2, (2, neurons)), random.uniform(-1, 1, neurons).astype(np.float32)


@pytest.mark.parametrize("neurons", [3, 50, 3000])
def test_correlations_are_those_of_numpy(neurons: int) -> None:
    data = {layer: random_layer(layer, neurons) for layer in (0, 4)}
    finding = Finding("key", tuple(layer_finding(layer, rows_of(*tables)) for layer, tables in data.items()))
    assert (finding.positions, finding.routed) == (POSITIONS, False)
    for layer in finding.layers:
        counts, cosines = data[layer.layer]
        frequency = counts.sum(axis=0).astype(np.float64) / POSITIONS
        assert layer.neurons == neurons
        assert np.array_equal(layer.frequency, frequency)
        assert np.array_equal(layer.cosine, cosines.astype(np.float64))
        assert layer.correlation == pytest.approx(np.corrcoef(frequency, cosines.astype(np.float64))[0, 1], abs=1e-12)
        assert layer.mean_frequency == pytest.approx(frequency.mean())
        assert layer.mean_cosine == pytest.approx(cosines.astype(np.float64).mean(), abs=1e-12)


def test_experts_are_counted_over_what_is_routed_to_them() -> None:
    counts, cosines = np.array([[10, 20, 0, 5], [10, 0, 0, 5]]), np.array([0.5, -0.5, 0.25, 0.0])
    layer = layer_finding(0, rows_of(counts, cosines, np.array([40, 100, 0, POSITIONS])))
    assert layer.routed
    assert layer.frequency.tolist() == [0.5, 0.2, 0.01], "an expert that saw nothing has no frequency"
    assert layer.cosine.tolist() == [0.5, -0.5, 0.0]
    assert layer.correlation == pytest.approx(np.corrcoef(layer.frequency, layer.cosine)[0, 1])
    other = layer_finding(1, rows_of(counts, cosines, np.full(4, POSITIONS)))
    assert not other.routed
    assert Finding("key", (layer, other)).routed


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


def test_cosines_that_are_no_numbers_are_left_out() -> None:
    counts, cosines = random_layer(0, 6)
    cosines[2] = np.nan
    layer = layer_finding(0, rows_of(counts, cosines))
    assert layer.neurons == 5
    assert layer.correlation is not None
