"""The unusual neurons of small tables, against plain loops in float64."""

import re
from pathlib import Path

import numpy as np
import pytest

from gluscope_assets.core.site.overview import overview_of
from gluscope_assets.core.site.overview_figures import training_figures
from gluscope_assets.core.site.site import render_site
from gluscope_assets.core.site.unusual import FEWEST_POSITIONS, LISTED
from gluscope_assets_tests.support.made_up_layers import Study, moved, site_map_of, study, written


def scores(name: str, made: Study, chance: float) -> dict[tuple[int, int], float]:
    """What a criterion makes of each neuron that it ranks, by (layer, neuron), in plain loops."""
    found = {}
    first, last = made[0][1], made[-1][1]
    for number, layer in last.items():
        held = layer.counts[:4] > 0
        enough = [neuron for neuron in range(layer.neurons) if layer.seen[neuron] >= FEWEST_POSITIONS]
        post = np.where(held, layer.largest, 0).astype(np.float64)
        opened = {neuron: post[:2, neuron].max() for neuron in enough if held[:2, neuron].any()}
        write = {neuron: post[:, neuron].max() * layer.norm_out[neuron] for neuron in enough if held[:, neuron].any()}
        distances = moved(first[number], layer) if number in first and len(made) > 1 else {}
        for neuron in enough:
            shares, (gate_in, gate_out, in_out) = layer.shares(neuron, False), layer.cosines[:, neuron]
            kind = layer.classes[neuron]
            implied = {"strengthening": np.sign(gate_out), "weakening": -np.sign(gate_out)}.get(kind, 0.0)
            score = {
                "Uses all four quadrants": shares[:4].min(),
                "Seldom positive gate, strong post": opened[neuron] / np.median(list(opened.values()))
                if shares[:2].sum() < 0.1 and neuron in opened
                else None,
                "Writes most": write[neuron] / np.median(list(write.values())) if neuron in write else None,
                "Writes along what it reads": abs(in_out) - chance if abs(in_out) > chance else None,
                "Least like its class": abs(gate_in - implied) if layer.atypical[neuron] else None,
                "Moved most in training": distances.get(neuron) if first[number].seen[neuron] >= FEWEST_POSITIONS else None,
            }[name]
            if score is not None:
                found[number, neuron] = float(score)
    return found


@pytest.mark.parametrize("experts", [False, True])
def test_unusual_neurons_are_those_of_plain_loops(tmp_path: Path, experts: bool) -> None:
    made = study(experts=experts)
    overview = overview_of(written(made, tmp_path))
    assert len(overview.unusual) == 6
    for ranking in overview.unusual:
        expected = scores(ranking.criterion.name, made, 0.2)
        assert ranking.ranked == len(expected)
        best = sorted(expected, key=lambda place: (-expected[place], place))[:LISTED]
        assert sorted((one.layer, one.neuron) for one in ranking.neurons) == sorted(best)
        assert [one.score for one in ranking.neurons] == pytest.approx([expected[place] for place in best], rel=1e-6)
        for one in ranking.neurons:
            assert all(np.isfinite(one.values))
            if experts:
                assert one.mlp_index is not None
                assert (one.mlp_index.expert, one.mlp_index.index) == (one.neuron // 3, one.neuron % 3)
            else:
                assert one.mlp_index is None


def test_one_checkpoint_has_no_movement_and_no_baseline_no_chance(tmp_path: Path) -> None:
    overview = overview_of(written(study(1), tmp_path, baseline=None))
    names = [ranking.criterion.name for ranking in overview.unusual]
    assert "Moved most in training" not in names
    assert "Writes along what it reads" not in names
    assert len(names) == 4
    assert training_figures(overview) is None
    assert overview.last is not None
    assert all(layer.moved is None and layer.compared == 0 for layer in overview.last.layers)


def test_a_neuron_that_no_page_has_is_named_without_a_link(tmp_path: Path) -> None:
    made = study(2)
    key = made[-1][0]
    overview = overview_of(written(made, tmp_path / "tables"))
    ranked = {(one.layer, one.neuron) for ranking in overview.unusual for one in ranking.neurons}
    folder = tmp_path / "site" / key / "00"
    folder.mkdir(parents=True)
    present = next(neuron for layer, neuron in sorted(ranked) if layer == 0)
    for name in ("index", str(present)):
        (folder / f"{name}.html").write_text("")
    render_site(tmp_path / "site", site_map_of(made), overview=overview)
    page = (tmp_path / "site" / "index.html").read_text()
    assert set(re.findall(rf'href="{key}/(\d+)/(\d+)\.html"', page)) == {("00", str(present))}
    assert f'<a href="{key}/00/{present}.html">layer 0, neuron {present}</a>' in page
    for layer, neuron in ranked:
        assert f"layer {layer}, neuron {neuron}" in page
