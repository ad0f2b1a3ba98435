"""A build runs what is stale and nothing else, through Dagster, and leaves whole results only."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
import yaml

from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.files import read_provenance
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.core.site.measured import Measurement
from gluscope_assets.core.site.overview import Overview, overview_of
from gluscope_assets.definitions import build_defs
from gluscope_assets.orchestration.partitions import RANGE_END_TAG, RANGE_START_TAG
from gluscope_assets.orchestration.records import recorded_shards
from gluscope_assets.study.fingerprints import partition_key
from gluscope_assets.study.measurement import measurement_of, passes_of
from gluscope_assets.study.sources import rendered_tables
from gluscope_assets_tests.conftest import Workplace

LAYER_STAGES = {"neuron_weights", "activation_shards", "quadrant_aggregates", "neuron_pages"}


def change(workplace: Workplace, **parts: dict[str, object]) -> None:
    """Change fields of the study file."""
    content = yaml.safe_load(workplace.file.read_text())
    for part, fields in parts.items():
        content[part] = {**content.get(part, {}), **fields}
    workplace.file.write_text(yaml.safe_dump(content))


def keys(workplace: Workplace) -> list[str]:
    """The partition keys of the study's checkpoints."""
    return [resolve_checkpoint(options).key for options in workplace.study.model.checkpoints]


def overview(workplace: Workplace) -> Overview:
    """The numbers that the index draws."""
    study, folder = workplace.study, workplace.folder
    checkpoints = [resolve_checkpoint(options) for options in study.model.checkpoints]
    return overview_of([(checkpoint.key, rendered_tables(study, folder, checkpoint)) for checkpoint in checkpoints])


def measurement(workplace: Workplace) -> Measurement:
    """What the index says was measured."""
    study, folder = workplace.study, workplace.folder
    checkpoints = [resolve_checkpoint(options) for options in study.model.checkpoints]
    measured = [(checkpoint, rendered_tables(study, folder, checkpoint)) for checkpoint in checkpoints]
    with workplace.instance as instance:
        records = list(recorded_shards(study, instance))
    return measurement_of(study, TokenizedCorpus.open(folder.corpus), measured, records)


def test_the_whole_chain_materializes(built_tiny: Workplace) -> None:
    materialized = built_tiny.materialized()
    assert materialized.keys() == {"tokenized_corpus", "site", *LAYER_STAGES}
    expected = {partition_key(key, layer) for key in keys(built_tiny) for layer in range(2)}
    for stage in LAYER_STAGES:
        assert materialized[stage] == expected
    pages = sorted((built_tiny.folder.site / keys(built_tiny)[1]).glob("*/[0-9]*.html"))
    assert len(pages) == 2 * 12
    assert len(list((built_tiny.folder.site / keys(built_tiny)[0]).glob("*/[0-9]*.html"))) == 2 * 2


def test_one_run_a_checkpoint_serves_all_layers(built_tiny: Workplace) -> None:
    with built_tiny.instance as instance:
        records = instance.fetch_materializations(dg.AssetKey(["tiny", "activation_shards"]), limit=100).records
    assert len(records) == 4
    assert len({record.run_id for record in records}) == 2


def test_all_checks_ran_and_passed(built_tiny: Workplace) -> None:
    with built_tiny.instance as instance:
        graph = build_defs([built_tiny.study]).resolve_asset_graph()
        for key in graph.asset_check_keys:
            (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
            assert record.event is not None
            assert record.status.value == "SUCCEEDED", key


def test_files_say_where_they_come_from(built_tiny: Workplace) -> None:
    key = keys(built_tiny)[1]
    for stage, path in {
        "tokenized_corpus": built_tiny.folder.corpus,
        "neuron_weights": built_tiny.folder.weights(key, 1),
        "activation_shards": built_tiny.folder.layer_shards(key, 1).shard(0) / "examples.parquet",
        "quadrant_aggregates": built_tiny.folder.aggregate(key, 1) / "statistics.parquet",
    }.items():
        footer = read_provenance(path)
        assert footer["stage"] == stage
        assert {"study", "model", "code_version", "fingerprint", "inputs"} <= footer.keys()
        if stage != "tokenized_corpus":
            assert footer["checkpoint"] == key


def test_metadata_plots_across_checkpoints(built_tiny: Workplace) -> None:
    with built_tiny.instance as instance:
        records = instance.fetch_materializations(dg.AssetKey(["tiny", "quadrant_aggregates"]), limit=10).records
        pages = instance.fetch_materializations(dg.AssetKey(["tiny", "neuron_pages"]), limit=1).records
    for record in records:
        assert record.asset_materialization is not None
        metadata = record.asset_materialization.metadata
        shares = [metadata[name].value for name in metadata if name.startswith("share of ")]
        assert len(shares) == 4
        assert 0.99 < sum(float(str(share)) for share in shares) <= 1.0
        assert metadata["neurons"].value == 12
        assert metadata["seconds"].value == pytest.approx(2 / float(str(metadata["layers per second"].value)))
    assert pages[0].asset_materialization is not None
    assert float(str(pages[0].asset_materialization.metadata["pages per second"].value)) > 1
    assert str(pages[0].asset_materialization.metadata["links"].value).count("](http") == 3


def test_the_index_shows_the_correlations_of_the_last_checkpoint(built_tiny: Workplace) -> None:
    folder, key = built_tiny.folder, keys(built_tiny)[1]
    index = (folder.site / "index.html").read_text()
    numbers = index[index.index('<table class="numbers">') :].split("</table>")[0]
    rows = re.findall(r'<tr><th scope="row">(\d)</th><td>(\d+)</td><td>([^<]+)</td>', numbers)
    assert [(int(layer), int(neurons)) for layer, neurons, _ in rows] == [(0, 12), (1, 12)]
    assert index.count('<svg class="scatter"') == 2
    for layer, _, shown in rows:
        statistics = pl.read_parquet(folder.aggregate(key, int(layer)) / "statistics.parquet")
        gate = ((statistics["gate+_in+_count"] + statistics["gate+_in-_count"]) / statistics["positions"]).to_numpy()
        cosine = pl.read_parquet(folder.weights(key, int(layer)))["cos_in_out"].to_numpy().astype(np.float64)
        assert float(shown.replace("−", "-")) == pytest.approx(np.corrcoef(gate, cosine)[0, 1], abs=6e-4)


def test_the_finding_is_of_the_last_checkpoint_that_has_data(tiny: Workplace) -> None:
    first, second = keys(tiny)
    (tiny.folder.aggregate(second, 0) / "statistics.parquet").unlink()
    finding = overview(tiny).finding
    assert finding is not None
    assert (finding.checkpoint, [layer.layer for layer in finding.layers]) == (second, [1])
    tiny.folder.weights(second, 1).unlink()
    finding = overview(tiny).finding
    assert finding is not None
    assert (finding.checkpoint, [layer.layer for layer in finding.layers]) == (first, [0, 1])
    for layer in range(2):
        tiny.folder.page_report(first, layer).unlink()
    assert overview(tiny).finding is None


def test_the_index_says_what_measuring_cost_and_with_which_versions(built_tiny: Workplace) -> None:
    checkpoints = [resolve_checkpoint(options) for options in built_tiny.study.model.checkpoints]
    measured = measurement(built_tiny)
    assert measured == measurement(built_tiny)
    index = (built_tiny.folder.site / "index.html").read_text()
    for checkpoint, found in zip(checkpoints, measured.checkpoints, strict=True):
        (ran,) = found.passes
        assert ran.layers == (0, 1)
        assert ran.tokens
        assert ran.seconds
        assert (ran.device or "").startswith("CPU")
        assert ran.dtype == "float32"
        assert dict(ran.software).keys() == {"gluscope", "python", "torch", "transformers", "polars"}
        assert found.weights_hash == checkpoint.weights_hash
        assert ran.date in index
        assert found.weights_hash in index
    assert measured.corpus_hash in index


def test_a_pass_is_that_of_the_shards_behind_the_tables(built_tiny: Workplace) -> None:
    study, folder = built_tiny.study, built_tiny.folder
    checkpoint = resolve_checkpoint(study.model.checkpoints[0])
    tables = rendered_tables(study, folder, checkpoint)
    shards = {layer.layer: read_provenance(layer.statistics)["inputs"] for layer in tables}

    def record(layer: int, tokens: int, fingerprint: object) -> dg.AssetMaterialization:
        return dg.AssetMaterialization(
            ["tiny", "activation_shards"],
            partition=partition_key(checkpoint.key, layer),
            metadata={"fingerprint": str(fingerprint), "tokens": tokens, "tokens per second": tokens / 2},
        )

    with dg.DagsterInstance.ephemeral() as instance:
        assert passes_of(checkpoint.key, tables, recorded_shards(study, instance)) == ()
        for layer in (0, 1):
            instance.report_runless_asset_event(record(layer, 700, shards[layer]["activation_shards"]))  # type: ignore[index]
            # Later ones that forwarded nothing, because all shards were there, or measured something else.
            instance.report_runless_asset_event(record(layer, 0, shards[layer]["activation_shards"]))  # type: ignore[index]
            instance.report_runless_asset_event(record(layer, 900, "another"))
        (ran,) = passes_of(checkpoint.key, tables, recorded_shards(study, instance))
        assert passes_of(checkpoint.key, [], recorded_shards(study, instance)) == ()
    assert (ran.layers, ran.tokens, ran.seconds) == ((0, 1), 700, 2)
    assert (ran.device, ran.dtype, ran.software) == (None, None, ())


def test_a_second_build_runs_nothing(tiny: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    runs, files = tiny.runs(), tiny.files()
    assert tiny.build() == 0
    assert tiny.runs() == runs
    assert tiny.files() == files
    assert "everything is fresh" in capsys.readouterr().out


def test_a_new_checkpoint_touches_neither_the_corpus_nor_other_checkpoints_activations(
    tiny: Workplace, tiny_checkpoints: Path
) -> None:
    shutil.copytree(tiny_checkpoints / "third", tiny.file.parent / "third")
    content = yaml.safe_load(tiny.file.read_text())["model"]["checkpoints"]
    change(tiny, model={"checkpoints": [*content, {"name": "third", "path": "third"}]})
    runs = tiny.runs()
    assert tiny.build() == 0
    again = tiny.materialized(runs)
    third = {partition_key(keys(tiny)[2], layer) for layer in range(2)}
    assert "tokenized_corpus" not in again
    for stage in ("neuron_weights", "activation_shards", "quadrant_aggregates"):
        assert again[stage] == third
    # The last checkpoint's neurons all get pages: there is a new last one, and the old one's selection has changed.
    second = {partition_key(keys(tiny)[1], layer) for layer in range(2)}
    assert again["neuron_pages"] == third | second


def test_dropped_shards_stay_fresh_and_are_made_again_when_a_merge_needs_them(tiny: Workplace) -> None:
    content = yaml.safe_load(tiny.file.read_text())
    tiny.file.write_text(yaml.safe_dump({**content, "storage": {"drop_merged_shards": True}}))
    key = keys(tiny)[1]
    (tiny.folder.aggregate(key, 1) / "statistics.parquet").unlink()
    before = (tiny.folder.layer_shards(key, 1).shard(0) / "examples.parquet").read_bytes()
    assert tiny.build() == 0
    assert not list(tiny.folder.layer_shards(key, 1).shard(0).glob("*.parquet"))
    assert list(tiny.folder.layer_shards(key, 0).shard(0).glob("*.parquet")), "only what was merged in this run is dropped"
    runs = tiny.runs()
    assert tiny.build() == 0
    assert tiny.materialized(runs) == {}, "dropped shards are as fresh as kept ones"
    (tiny.folder.aggregate(key, 1) / "statistics.parquet").unlink()
    tiny.file.write_text(yaml.safe_dump(content))
    runs = tiny.runs()
    assert tiny.build() == 0
    assert tiny.materialized(runs)["activation_shards"] == {partition_key(key, 1)}
    assert (tiny.folder.layer_shards(key, 1).shard(0) / "examples.parquet").read_bytes() == before


def test_what_was_deleted_is_made_again(tiny: Workplace) -> None:
    """As messages about damaged files say."""
    key = keys(tiny)[1]
    files = {
        "neuron_weights": tiny.folder.weights(key, 0),
        "activation_shards": tiny.folder.layer_shards(key, 0).record,
        "quadrant_aggregates": tiny.folder.tables(key, 0).examples,
    }
    for stage, file in files.items():
        content = file.read_bytes()
        file.unlink()
        runs = tiny.runs()
        assert tiny.build() == 0
        assert tiny.materialized(runs) == {stage: {partition_key(key, 0)}}
        assert file.read_bytes() == content


def test_layers_and_checkpoints_can_be_chosen(fresh: Workplace) -> None:
    assert fresh.build("--checkpoint", "second", "--layers", "1") == 0
    key = partition_key(keys(fresh)[1], 1)
    materialized = fresh.materialized()
    assert all(materialized[stage] == {key} for stage in LAYER_STAGES)
    assert fresh.build() == 0
    assert all(len(partitions) == 4 for stage, partitions in fresh.materialized().items() if stage in LAYER_STAGES)


def test_a_range_run_as_the_ui_starts_it(tiny: Workplace) -> None:
    """A backfill over both checkpoints and all layers: one run, grouped by checkpoint inside."""
    first, second = keys(tiny)
    definitions = build_defs([tiny.study])
    job = definitions.resolve_implicit_global_asset_job_def()
    runs = tiny.runs()
    tags = {RANGE_START_TAG: partition_key(first, 0), RANGE_END_TAG: partition_key(second, 1)}
    stages = ["activation_shards", "quadrant_aggregates"]
    with tiny.instance as instance:
        selection = [dg.AssetKey(["tiny", stage]) for stage in stages]
        result = job.execute_in_process(instance=instance, asset_selection=selection, tags=tags)
        assert result.success
    again = tiny.materialized(runs)
    assert {stage: len(again[stage]) for stage in stages} == {"activation_shards": 4, "quadrant_aggregates": 4}
    runs = tiny.runs()
    assert tiny.build() == 0
    assert tiny.runs() == runs, "the same content under the same fingerprints is fresh"


def test_results_do_not_depend_on_which_layers_run_together(fresh: Workplace, built_tiny: Workplace) -> None:
    for layer in ("1", "0"):
        assert fresh.build("--layers", layer) == 0
    for key in keys(fresh):
        for path in sorted((built_tiny.folder.root / "aggregates" / key).rglob("*.parquet")):
            same = fresh.folder.root / path.relative_to(built_tiny.folder.root)
            assert same.read_bytes() == path.read_bytes(), path


def test_wrong_data_is_blocked_and_not_used_again(
    tiny: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gluscope_assets.core.collect import shards
    from gluscope_assets.core.tables.aggregate import Aggregate, write_aggregate

    honest = shards.merge_shards

    def dishonest(root: Path, layer: int, destination: Path, provenance: Mapping[str, object]) -> Aggregate:
        merged = honest(root, layer, destination, provenance)
        merged.zero[0] += 1
        write_aggregate(merged, destination, read_provenance(destination / "statistics.parquet"))
        return merged

    change(tiny, collection={"examples": 2})
    pages = {path: path.read_bytes() for path in tiny.folder.site.rglob("*.html")}
    monkeypatch.setattr(shards, "merge_shards", dishonest)
    assert tiny.build() == 1
    assert "counts_add_up" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tiny.folder.site.rglob("*.html")} == pages
    monkeypatch.setattr(shards, "merge_shards", honest)
    runs = tiny.runs()
    assert tiny.build() == 0
    assert {"quadrant_aggregates", "neuron_pages"} <= tiny.materialized(runs).keys()


def test_the_dataset_lies_beside_the_pages_and_goes_with_them(tiny: Workplace, tmp_path: Path) -> None:
    change(tiny, site={"dataset_license": "mit"}, publish={"folder": str(tmp_path / "public")})
    runs = tiny.runs()
    assert tiny.build() == 0
    assert tiny.materialized(runs).keys() == {"site"}
    index = (tiny.folder.site / "index.html").read_text()
    assert 'href="dataset/README.md"' in index
    assert "under the license mit" in index
    job = build_defs([tiny.study]).resolve_job_def("tiny_publish")
    with tiny.instance as instance:
        uploaded = [
            job.execute_in_process(instance=instance)
            .asset_materializations_for_node("tiny__published_site")[0]
            .metadata["files uploaded"]
            for _ in range(2)
        ]
    assert uploaded[0].value
    assert not uploaded[1].value, "a second publication uploads nothing"
    published = pl.read_parquet(tmp_path / "public" / "dataset" / "neurons" / "**" / "*.parquet")
    assert sorted(published["checkpoint"].unique()) == sorted(keys(tiny))
    assert len(published) == 2 * 2 * 12
    assert "license: mit" in (tmp_path / "public" / "dataset" / "README.md").read_text()

    change(tiny, site={"dataset_license": None})
    assert tiny.build() == 0
    assert not (tiny.folder.site / "dataset").exists()
    assert "dataset/README.md" not in (tiny.folder.site / "index.html").read_text()


def test_a_person_publishes_the_site(tiny: Workplace, tmp_path: Path) -> None:
    change(tiny, publish={"folder": str(tmp_path / "public")})
    job = build_defs([tiny.study]).resolve_job_def("tiny_publish")
    with tiny.instance as instance:
        assert job.execute_in_process(instance=instance).success
    site = {path.relative_to(tiny.folder.site) for path in tiny.folder.site.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "public") for path in (tmp_path / "public").rglob("*") if path.is_file()} == site
    report = json.loads(tiny.folder.page_report(keys(tiny)[1], 0).read_text())
    assert report["pages"] == 12


def test_a_build_ends_by_saying_where_the_site_is(tiny: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.build() == 0
    index = tiny.folder.site / "index.html"
    assert index.is_file()
    printed = capsys.readouterr().out
    assert f"open   {index.as_uri()}" in printed
    assert f"serve --study {tiny.file}" in printed
