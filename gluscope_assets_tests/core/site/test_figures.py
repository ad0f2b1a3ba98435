"""The scatter plots of the paper's finding, as geometry and on the index."""

import re
from pathlib import Path

import numpy as np
import pytest

from gluscope_assets.core.pages.density import SHADES
from gluscope_assets.core.pages.site_map import SiteMap
from gluscope_assets.core.site.figures import BOX, COLUMNS, MOST_MARKS, ROWS, axis_of, figure_of
from gluscope_assets.core.site.gate_finding import Finding, LayerFinding, correlation
from gluscope_assets.core.site.overview import CheckpointSummary, Overview
from gluscope_assets.core.site.site import render_site

POSITIONS = 1000


def random_layer(seed: int, neurons: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts [2, neurons] of gate+ in+ and gate+ in-, and cosines [neurons]."""
    random = np.random.default_rng(seed)
    return random.integers(0, POSITIONS // 2, (2, neurons)), random.uniform(-1, 1, neurons).astype(np.float32)


def finding_of(*sizes: int) -> Finding:
    layers = []
    for layer, neurons in enumerate(sizes):
        counts, cosines = random_layer(layer, neurons)
        frequency, cosine = counts.sum(axis=0) / POSITIONS, cosines.astype(np.float64)
        layers.append(LayerFinding(layer, frequency, cosine, correlation(frequency, cosine), POSITIONS, False))
    return Finding("late-1111111", tuple(layers))


def overview_with(finding: Finding) -> Overview:
    """An overview that has nothing else to show."""
    return Overview("oriented", (CheckpointSummary(finding.checkpoint, ()),), finding, ())


def test_every_neuron_is_a_mark_at_its_place() -> None:
    finding = finding_of(300)
    figure = figure_of(finding)
    assert figure is not None
    (panel,), (layer,) = figure.panels, finding.layers
    marks = [tuple(map(int, mark)) for path in panel.marks for mark in re.findall(r"M(\d+) (\d+)h0", path)]
    across, up = figure.across, figure.up
    expected = [
        (round(BOX * (x - across.low) / (across.high - across.low)), round(BOX * (up.high - y) / (up.high - up.low)))
        for x, y in zip(layer.cosine, layer.frequency, strict=True)
    ]
    assert sorted(marks) == sorted(expected)
    assert not panel.shades


def test_a_large_layer_is_a_grid_with_a_square_for_every_neuron() -> None:
    finding = finding_of(MOST_MARKS, MOST_MARKS + 1)
    figure = figure_of(finding)
    assert figure is not None
    few, many = figure.panels
    assert few.marks
    assert not few.shades
    assert not many.marks
    filled: dict[tuple[int, int], int] = {}
    for shade, path in many.shades:
        for left, row, length in re.findall(r"M(\d+) (\d+)\.5h(\d+)", path):
            for column in range(int(left), int(left) + int(length)):
                assert (column, int(row)) not in filled
                filled[column, int(row)] = shade
    layer = many.finding
    x = np.floor(COLUMNS * figure.across.shares(layer.cosine)).astype(int)
    y = np.floor(ROWS * (1 - figure.up.shares(layer.frequency))).astype(int)
    assert filled.keys() == set(zip(x.tolist(), y.tolist(), strict=True))
    squares, counts = np.unique(np.stack([x, y], axis=1), axis=0, return_counts=True)
    shades = [filled[column, row] for column, row in squares.tolist()]
    assert max(shades) == SHADES
    by_count = sorted(zip(counts.tolist(), shades, strict=True))
    assert [shade for _, shade in by_count] == sorted(shades), "stronger for more neurons"


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-0.74, 0.59), (0.0, 0.0), (0.0, 1e-4), (-1e-3, 0.03), (0.0, 0.5)]
)
def test_axes_hold_their_values_and_have_few_round_ticks(low: float, high: float) -> None:
    axis = axis_of(low, high, -1, 1)
    assert axis.low < low <= high < axis.high
    assert 1 <= len(axis.ticks) <= 5
    for tick in axis.ticks:
        assert axis.low <= tick.value <= axis.high
        assert tick.percent == pytest.approx(100 * (tick.value - axis.low) / (axis.high - axis.low))
        assert round(tick.value, tick.decimals) == pytest.approx(tick.value), "a tick's label is its place"


def test_the_index_draws_the_finding_and_says_it_in_a_table(tmp_path: Path) -> None:
    site_map = SiteMap("s", "S", "m", "texts", (("late-1111111", "late"),), ((0, 40), (1, 2), (2, 2500)), ())
    finding = finding_of(40, 2, 2500)
    render_site(tmp_path, site_map, overview=overview_with(finding))
    page = (tmp_path / "index.html").read_text()
    assert page.count('<svg class="scatter"') == 3
    assert page.count('class="marks"') == 4 + 2
    assert "squares, in stronger shades for more neurons" in page
    assert "NaN" not in page
    assert "style=" not in page
    rows = re.findall(r'<tr><th scope="row">(\d)</th>' + r"<td>([^<]*)</td>" * 4, page)
    for row, layer in zip(rows, finding.layers, strict=True):
        number, neurons, r, frequency, cosine = (cell.replace("−", "-").replace("\u202f", "") for cell in row)
        assert (int(number), int(neurons)) == (layer.layer, layer.neurons)
        assert r == "–" if layer.correlation is None else float(r) == pytest.approx(layer.correlation, abs=5e-4)
        assert float(frequency.rstrip("%")) == pytest.approx(100 * (layer.mean_frequency or 0), abs=0.05)
        assert float(cosine) == pytest.approx(layer.mean_cosine or 0, abs=5e-4)


@pytest.mark.parametrize("sizes", [(), (0, 0)])
def test_a_finding_without_neurons_is_not_drawn(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    site_map = SiteMap("s", "S", "m", "texts", (("late-1111111", "late"),), ((0, 4), (1, 4)), ())
    render_site(tmp_path, site_map, overview=overview_with(finding_of(*sizes)))
    assert "scatter" not in (tmp_path / "index.html").read_text()
