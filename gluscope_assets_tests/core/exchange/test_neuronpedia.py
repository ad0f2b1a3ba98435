"""The export for Neuronpedia, against the tables as they lie on disk."""

import gzip
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.exchange import neuronpedia
from gluscope_assets.core.exchange.neuronpedia import Release, export_neuronpedia
from gluscope_assets.core.pages.layer_source import LayerSource
from gluscope_assets.core.quadrants import QUADRANTS, column, oriented_quadrant
from gluscope_assets.study.sources import all_sources
from gluscope_assets_tests.conftest import Workplace
from gluscope_assets_tests.support.tiny import LAYERS, WIDTH

RELEASE = Release("tiny-llama", "gluscope", "gluscope-tiny", "Tiny neurons", "A person", "c0ffee", "https://example.org")
NAMES = {
    "gate+_in+": "gate-pos-in-pos",
    "gate+_in-": "gate-pos-in-neg",
    "gate-_in+": "gate-neg-in-pos",
    "gate-_in-": "gate-neg-in-neg",
}
BATCH = 5


@pytest.fixture(scope="module")
def sources(built_tiny: Workplace) -> list[LayerSource]:
    """The layers of the first checkpoint."""
    found = all_sources(built_tiny.study, built_tiny.folder)
    return [source for source in found if source.checkpoint_key.startswith("first-")]


@pytest.fixture(scope="module")
def exported(sources: list[LayerSource], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("neuronpedia") / "v1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neuronpedia, "BATCH", BATCH)
        export_neuronpedia(sources, target, RELEASE)
    return target


def entries(folder: Path) -> list[dict[str, Any]]:
    """Those of all batches, in order."""
    found = []
    for number in range(len(list(folder.iterdir()))):
        for line in gzip.decompress((folder / f"batch-{number}.jsonl.gz").read_bytes()).splitlines():
            found.append(json.loads(line))
    return found


def places(exported: Path, sources: list[LayerSource]) -> Iterator[tuple[LayerSource, str, Path]]:
    for source in sources:
        for quadrant in QUADRANTS:
            yield source, quadrant, exported / "tiny-llama" / f"{source.layer}-gluscope__{NAMES[quadrant]}"


def test_folders_and_batches_are_neuronpedias(exported: Path, sources: list[LayerSource]) -> None:
    folders = {folder for _, _, folder in places(exported, sources)}
    assert set((exported / "tiny-llama").iterdir()) == folders
    assert len(folders) == LAYERS * 4
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {
            *("features", "activations", "explanations"),
            *("model.jsonl", "release.jsonl", "sourceset.jsonl", "source.jsonl"),
        }
        assert not list((folder / "explanations").iterdir())
        for name in ("features", "activations"):
            assert {path.name for path in (folder / name).iterdir()} == {f"batch-{number}.jsonl.gz" for number in range(3)}
        source, set_ = (json.loads((folder / f"{name}.jsonl").read_text()) for name in ("source", "sourceset"))
        release, model = (json.loads((folder / f"{name}.jsonl").read_text()) for name in ("release", "model"))
        assert (source["id"], source["modelId"], source["setName"]) == (folder.name, "tiny-llama", set_["name"])
        assert (set_["releaseName"], release["name"], model["id"]) == ("gluscope-tiny", "gluscope-tiny", "tiny-llama")
        assert source["id"] == f"{source['id'].split('-')[0]}-{set_['name']}"
        assert {entry["creatorId"] for entry in (source, set_, release, model)} == {"c0ffee"}


def test_features_are_neurons_with_what_their_quadrant_does(exported: Path, sources: list[LayerSource]) -> None:
    for source, quadrant, folder in places(exported, sources):
        features = entries(folder / "features")
        statistics = pl.read_parquet(source.aggregate / "statistics.parquet").to_dicts()
        weights = pl.read_parquet(source.weights).to_dicts()
        tokenizer = Tokenizer.from_file(str(source.tokenizer / "tokenizer.json"))
        assert [feature["index"] for feature in features] == [str(neuron) for neuron in range(WIDTH)]
        for feature, known, of_weights in zip(features, statistics, weights, strict=True):
            assert (feature["modelId"], feature["layer"]) == ("tiny-llama", folder.name)
            raw = oriented_quadrant(quadrant, of_weights["orientation"])
            assert feature["frac_nonzero"] == known[f"{raw}_count"] / known["positions"]
            assert feature["maxActApprox"] == pytest.approx(known[f"{raw}_post_largest"] or 0, rel=1e-4)
            # Silu is negative for a negative gate: post is positive where the signs are equal.
            sign = 1 if raw in ("gate+_in+", "gate-_in-") else -1
            assert known[f"{raw}_count"] == 0 or math.copysign(1, known[f"{raw}_post_sum"]) == sign
            scores = {entry["token"]: entry["score"] for name in ("promoted", "suppressed") for entry in of_weights[name]}
            expected = sorted((sign * score for score in scores.values()), reverse=True)
            np.testing.assert_allclose(feature["pos_values"], expected[:10], rtol=1e-4)
            np.testing.assert_allclose(feature["neg_values"], expected[::-1][:10], rtol=1e-4)
            ids = {round(sign * score, 9): token for token, score in scores.items()}
            best = ids[max(ids)]
            if "\ufffd" not in tokenizer.decode([best], skip_special_tokens=False):
                assert feature["pos_str"][0] == tokenizer.decode([best], skip_special_tokens=False)


def silu(gate: float) -> float:
    return gate / (1 + math.exp(-gate))


def test_activations_are_post_in_the_quadrant_and_0_elsewhere(
    exported: Path, sources: list[LayerSource], built_tiny: Workplace
) -> None:
    special, identifiers, compared = TokenizedCorpus.open(built_tiny.folder.corpus).special_token_ids, set(), 0
    for source, quadrant, folder in places(exported, sources):
        activations = entries(folder / "activations")
        lists = pl.read_parquet(source.aggregate / "examples.parquet")
        signs = pl.read_parquet(source.weights)["orientation"].to_list()
        tokenizer = Tokenizer.from_file(str(source.tokenizer / "tokenizer.json"))
        expected = [
            (str(neuron), raw, entry)
            for neuron, sign in enumerate(signs)
            for raw in [oriented_quadrant(quadrant, sign)]
            for entry in lists[column(raw, "post")][neuron].to_list()
        ]
        assert len(activations) == len(expected)
        for found, (index, raw, entry) in zip(activations, expected, strict=True):
            assert (found["modelId"], found["layer"], found["index"]) == ("tiny-llama", folder.name, index)
            assert found["dataIndex"] == str(entry["text"])
            peak = entry["position"] - entry["start"]
            assert found["maxValueTokenIndex"] == peak
            assert found["maxValue"] == found["values"][peak] == max(found["values"])
            assert found["maxValue"] == pytest.approx(abs(entry["post"]), rel=1e-4)
            assert found["minValue"] == min(found["values"]) >= 0
            assert len(found["values"]) == len(found["tokens"]) == len(entry["token"])
            for value, token, gate, in_ in zip(found["values"], entry["token"], entry["gate"], entry["in"], strict=True):
                inside = (gate > 0) == (raw[4] == "+") and (in_ > 0) == (raw[8] == "+") and token not in special
                assert value == pytest.approx(abs(silu(gate) * in_) if inside else 0, rel=4e-3, abs=1e-9)
                compared += inside
            decoded = tokenizer.decode(entry["token"], skip_special_tokens=False)
            assert "\ufffd" in decoded or "".join(found["tokens"]) == decoded
            identifiers.add(found["id"])
            assert len(found["id"]) == 25
    assert compared > 500
    assert len(identifiers) == sum(len(entries(folder / "activations")) for _, _, folder in places(exported, sources))


def test_the_same_tables_give_the_same_bytes(
    exported: Path, sources: list[LayerSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuronpedia, "BATCH", BATCH)
    for _ in range(2):  # the second replaces the first
        export_neuronpedia(sources, tmp_path / "again", RELEASE)
        files = sorted(path.relative_to(exported) for path in exported.rglob("*") if path.is_file())
        assert files == sorted(
            path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()
        )
        for name in files:
            assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes(), name
    head = (exported / "tiny-llama" / "0-gluscope__gate-pos-in-pos" / "features" / "batch-0.jsonl.gz").read_bytes()[:10]
    assert head[3:8] == b"\0\0\0\0\0"  # no name, no time


def test_the_raw_view_has_the_quadrants_of_the_tables(sources: list[LayerSource], tmp_path: Path) -> None:
    raw = [replace(source, site_map=replace(source.site_map, view="raw")) for source in sources[:1]]
    export_neuronpedia(raw, tmp_path / "raw", RELEASE)
    statistics = pl.read_parquet(sources[0].aggregate / "statistics.parquet")
    for _, quadrant, folder in places(tmp_path / "raw", raw):
        shares = [feature["frac_nonzero"] for feature in entries(folder / "features")]
        assert shares == (statistics[f"{quadrant}_count"] / statistics["positions"]).to_list()


def test_bad_input_gets_a_sentence_and_leaves_nothing(
    sources: list[LayerSource], built_tiny: Workplace, tmp_path: Path
) -> None:
    target = tmp_path / "v1"
    with pytest.raises(InputError, match="and 2 were given; export one at a time"):
        export_neuronpedia(all_sources(built_tiny.study, built_tiny.folder), target, RELEASE)
    with pytest.raises(InputError, match="source_set is 'a set'; give letters"):
        export_neuronpedia(sources, target, replace(RELEASE, source_set="a set"))
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("statistics", "examples"):
        table = pq.read_table(sources[1].aggregate / f"{name}.parquet")
        if name == "examples":
            rows = table["gate-_in+_post"].to_pylist()
            field = table.schema.field("gate-_in+_post")
            for entry in rows[-1]:
                entry["position"] = None
            place = table.schema.get_field_index(field.name)
            table = table.set_column(
                place, field, pl.Series(rows, dtype=pl.from_arrow(table).schema[field.name]).to_arrow().cast(field.type)
            )  # type: ignore[union-attr]
        pq.write_table(
            table.replace_schema_metadata(pq.read_schema(sources[1].aggregate / f"{name}.parquet").metadata),
            bare / f"{name}.parquet",
        )
    with pytest.raises(InputError, match=r"bare has no windows in gate-_in\+_post; fill them"):
        export_neuronpedia([sources[0], replace(sources[1], aggregate=bare)], target, RELEASE)
    assert not target.exists()
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="v1 holds something else"):
        export_neuronpedia(sources, target, RELEASE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "v1"]
