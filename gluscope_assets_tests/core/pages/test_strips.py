"""The strips along training against the tables they are made from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gluscope_assets.core.corpus.decoder import visible
from gluscope_assets.core.pages.formats import SPACES
from gluscope_assets.core.pages.strips import (
    TOKENS_AFTER,
    TOKENS_BEFORE,
    StripSources,
    neurons_together,
    write_layer_strips,
)
from gluscope_assets.core.quadrants import QUADRANTS
from gluscope_assets_tests.support.synthetic import Study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


def sources(study: Study, layer: int, keys: list[str]) -> StripSources:
    return StripSources({layer: [study.tables(key) for key in keys]}, study.corpus, study.decoder)


def read(path: Path) -> dict[str, Any]:
    text = path.read_text()
    name, data = text.removeprefix("gluscope.provide(").removesuffix(");\n").split(",", 1)
    assert json.loads(name) == f"training/{path.parent.name}/{path.stem}"
    found: dict[str, Any] = json.loads(data)
    return found


def test_a_script_holds_shares_and_strongest_examples_of_every_checkpoint(study: Study, tmp_path: Path) -> None:
    keys = ["early-0000000", "late-1111111"]
    size = write_layer_strips(tmp_path, sources(study, 0, keys), 0, range(study.width), 8)
    (path,) = (tmp_path / "00").iterdir()
    assert size == path.stat().st_size
    found = read(path)
    assert [checkpoint["key"] for checkpoint in found["checkpoints"]] == keys
    for checkpoint in found["checkpoints"]:
        assert checkpoint["orientation"] == study.orientation
        for neuron in range(study.width):
            for place, quadrant in enumerate(QUADRANTS):
                inside = [study.inside(neuron, text, quadrant) for text in range(len(study.corpus.texts))]
                share = sum(mask.sum() for mask in inside) / study.positions
                assert checkpoint["shares"][neuron][place] == pytest.approx(share, abs=1e-6)
                strongest = checkpoint["strongest"][neuron][place]
                sizes = [np.where(mask, np.abs(study.values(neuron, text)["post"]), -1) for text, mask in enumerate(inside)]
                largest = max(float(values.max()) for values in sizes)
                if largest < 0:
                    assert strongest is None
                    continue
                text = next(text for text, values in enumerate(sizes) if values.max() == largest)
                position = int(sizes[text].argmax())
                post, before, peak, after = strongest
                assert post == pytest.approx(study.values(neuron, text)["post"][position], rel=1e-3)
                pieces = study.decoder.pieces(study.corpus.texts[text].tolist())
                shown = [SPACES.sub("  ", visible(piece).replace("\n", "")) for piece in pieces]
                low, high = max(position - TOKENS_BEFORE, 0), position + TOKENS_AFTER + 1
                assert [before, peak, after] == [
                    "".join(shown[low:position]),
                    shown[position],
                    "".join(shown[position + 1 : high]),
                ]


def test_only_runs_with_a_wanted_neuron_are_written(study: Study, tmp_path: Path) -> None:
    keys = [f"step-{number}" for number in range(40)]
    of_layer = sources(study, 3, keys)
    assert neurons_together(of_layer.tables) == 1
    write_layer_strips(tmp_path, of_layer, 3, [1, 4], 1)
    assert sorted(path.name for path in (tmp_path / "03").iterdir()) == ["1.js", "4.js"]
    assert [len(checkpoint["shares"]) for checkpoint in read(tmp_path / "03" / "4.js")["checkpoints"]] == [1] * 40
