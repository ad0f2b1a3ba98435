"""Checkpoints that appear by themselves: found by the sensor and by a build, kept in the registry, retired from the site."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.pages.site_map import read_manifest
from gluscope_assets.core.site.links import broken_links
from gluscope_assets.definitions import build_defs
from gluscope_assets.orchestration.partitions import checkpoint_partitions
from gluscope_assets.study.registry import look_for_checkpoints, read_registry, with_registry
from gluscope_assets.study.study import load_study
from gluscope_assets_tests.conftest import Workplace


@pytest.fixture
def runs(fresh: Workplace) -> Path:
    """The folder where the study's checkpoints appear: it lists none itself. Two are there, one is half-written."""
    folder = fresh.file.parent / "runs"
    folder.mkdir()
    for name, step in (("first", 100), ("second", 200)):
        shutil.move(fresh.file.parent / name, folder / f"checkpoint-{step}")
    discover(fresh)
    return folder


def discover(workplace: Workplace, **options: object) -> None:
    """Say in the study file that checkpoints appear in `runs`."""
    content = yaml.safe_load(workplace.file.read_text())
    content["model"] = {**content["model"], "checkpoints": [], "discover": {"folder": "runs", **options}}
    workplace.file.write_text(yaml.safe_dump(content))


def names(workplace: Workplace) -> list[str]:
    """The checkpoints that definitions know when they are loaded."""
    return [checkpoint.name for checkpoint in with_registry(workplace.study, workplace.folder).model.checkpoints]


def shown(workplace: Workplace) -> list[str]:
    """The checkpoints that the site lists."""
    return [entry["name"] for entry in read_manifest(workplace.folder.site)["checkpoints"]]


def tick(workplace: Workplace, instance: dg.DagsterInstance) -> dg.SensorResult:
    """One evaluation of the sensor, whose requests are carried out as the daemon does."""
    definitions = build_defs([workplace.study])
    context = dg.build_sensor_context(instance=instance, definitions=definitions)
    result = definitions.resolve_sensor_def("tiny_new_checkpoints")(context)
    assert isinstance(result, dg.SensorResult)
    partitions = checkpoint_partitions(workplace.study).name or ""
    for request in result.dynamic_partitions_requests or ():
        if isinstance(request, dg.AddDynamicPartitionsRequest):
            instance.add_dynamic_partitions(partitions, list(request.partition_keys))
        else:
            for key in request.partition_keys:
                instance.delete_dynamic_partition(partitions, key)
    return result


def keys(instance: dg.DagsterInstance) -> list[str]:
    return [key.rpartition("-")[0] for key in instance.get_dynamic_partitions("tiny_checkpoints")]


def test_the_sensor_waits_for_a_writer_that_stopped_midway(fresh: Workplace, runs: Path, tiny_checkpoints: Path) -> None:
    weights = (tiny_checkpoints / "third" / "model.safetensors").read_bytes()
    third = runs / "checkpoint-300"
    with dg.DagsterInstance.ephemeral() as instance:
        tick(fresh, instance)
        assert keys(instance) == ["checkpoint-100", "checkpoint-200"]
        third.mkdir()
        (third / "config.json").write_bytes((tiny_checkpoints / "third" / "config.json").read_bytes())
        for written in (0, 1000, len(weights) - 1):
            (third / "model.safetensors").write_bytes(weights[:written])
            result = tick(fresh, instance)
            assert result.skip_reason is not None
            assert "checkpoint-300" in str(result.skip_reason.skip_message)
            assert keys(instance) == ["checkpoint-100", "checkpoint-200"]
        (third / "model.safetensors").write_bytes(weights)
        result = tick(fresh, instance)
        assert keys(instance) == ["checkpoint-100", "checkpoint-200", "checkpoint-300"]
        (event,) = result.asset_events
        assert isinstance(event, dg.AssetMaterialization)
        assert event.partition == instance.get_dynamic_partitions("tiny_checkpoints")[-1]
        assert names(fresh) == ["checkpoint-100", "checkpoint-200", "checkpoint-300"]
        assert tick(fresh, instance).skip_reason is not None


def test_so_many_at_once_and_the_same_weights_cost_nothing(fresh: Workplace, runs: Path) -> None:
    discover(fresh, at_once=1)
    shutil.copytree(runs / "checkpoint-200", runs / "checkpoint-250")
    assert [look_for_checkpoints(fresh.study, fresh.folder) for _ in range(4)] == [
        "new: checkpoint-100; 2 more at the next look",
        "new: checkpoint-200; 1 more at the next look",
        "checkpoint-250 has the weights of checkpoint-200 and costs nothing",
        "no new checkpoint",
    ]
    assert names(fresh) == ["checkpoint-100", "checkpoint-200"]


def test_a_build_finds_new_checkpoints_and_retires_old_ones_without_breaking_links(
    fresh: Workplace, runs: Path, tiny_checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fresh.build() == 0
    assert shown(fresh) == ["checkpoint-100", "checkpoint-200"]
    old = {path: path.read_bytes() for path in fresh.folder.site.glob("checkpoint-100-*/*/*.html")}
    assert len(old) == 6, "two neurons and the layer's own page of each layer"
    shutil.copytree(tiny_checkpoints / "third", runs / "checkpoint-300")
    discover(fresh, keep=2)
    capsys.readouterr()
    assert fresh.build() == 0
    assert "new: checkpoint-300; retired: checkpoint-100" in capsys.readouterr().out
    assert shown(fresh) == ["checkpoint-200", "checkpoint-300"]
    assert {path: path.read_bytes() for path in old} == old, "links to its pages still work"
    assert not broken_links(fresh.folder.site, [*fresh.folder.site.rglob("*.html")])
    assert [one.retired for one in read_registry(fresh.folder).appeared] == [True, False, False]
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("tiny_checkpoints", [one.key for one in read_registry(fresh.folder).appeared])
        tick(fresh, instance)
        assert keys(instance) == ["checkpoint-200", "checkpoint-300"], "nothing is made of it any more"
    # Kept for longer, it comes back with its pages as they are.
    discover(fresh, keep=3)
    assert fresh.build() == 0
    assert shown(fresh) == ["checkpoint-100", "checkpoint-200", "checkpoint-300"]


def test_a_build_before_the_first_checkpoint_says_so(fresh: Workplace, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(runs)
    runs.mkdir()
    assert fresh.build() == 2
    assert "no checkpoint has appeared where model.discover looks; build again when one has" in capsys.readouterr().err


def test_a_damaged_registry_is_one_sentence(fresh: Workplace, runs: Path) -> None:
    look_for_checkpoints(fresh.study, fresh.folder)
    fresh.folder.registry.write_text("{")
    with pytest.raises(InputError, match="checkpoints.json is damaged; delete it"):
        read_registry(fresh.folder)


def test_a_study_needs_checkpoints_or_a_place_where_they_appear(fresh: Workplace) -> None:
    content = yaml.safe_load(fresh.file.read_text())
    for model, sentence in (
        ({"checkpoints": []}, "list checkpoints, or say with discover where they appear"),
        ({"discover": {"folder": "runs", "repository": "a/b"}}, "give either folder or repository"),
        ({"discover": {"folder": "runs", "patern": "x"}}, "unknown field model.discover.patern; did you mean pattern?"),
    ):
        fresh.file.write_text(yaml.safe_dump({**content, "model": {**content["model"], **model}}))
        with pytest.raises(InputError, match=sentence.replace("?", r"\?")):
            load_study(fresh.file)


def test_the_nightly_schedule_asks_for_what_has_no_pages(fresh: Workplace, runs: Path) -> None:
    definitions = build_defs([fresh.study])
    schedule = definitions.resolve_schedule_def("tiny_nightly_missing_partitions")
    # A schedule opens its instance by reference, which one in memory has not.
    with dg.instance_for_test() as instance:
        tick(fresh, instance)
        context = dg.build_schedule_context(
            instance=instance,
            repository_def=definitions.get_repository_def(),
            scheduled_execution_time=datetime(2026, 1, 1, tzinfo=UTC),
        )
        wanted = instance.get_dynamic_partitions("tiny_checkpoints")
        data = schedule.evaluate_tick(context)
        assert [request.partition_key for request in data.run_requests or ()] == [
            f"{key}|{layer:02d}" for key in wanted for layer in range(2)
        ]
        instance.report_runless_asset_event(
            dg.AssetMaterialization(asset_key=["tiny", "neuron_pages"], partition=f"{wanted[0]}|00")
        )
        again = schedule.evaluate_tick(context)
        assert len(again.run_requests or ()) == 3


def test_the_nightly_schedule_asks_for_pages_of_a_checkpoint_that_is_no_longer_the_last(tiny: Workplace) -> None:
    content = yaml.safe_load(tiny.file.read_text())
    first, second = content["model"]["checkpoints"]
    content["model"]["checkpoints"] = [second, first]
    tiny.file.write_text(yaml.safe_dump(content))
    definitions = build_defs([tiny.study])
    schedule = definitions.resolve_schedule_def("tiny_nightly_missing_partitions")
    with tiny.instance as instance:
        context = dg.build_schedule_context(
            instance=instance,
            repository_def=definitions.get_repository_def(),
            scheduled_execution_time=datetime(2026, 1, 1, tzinfo=UTC),
        )
        requests = schedule.evaluate_tick(context).run_requests or []
        keys = instance.get_dynamic_partitions("tiny_checkpoints")
        assert [request.partition_key for request in requests] == [f"{key}|{layer:02d}" for key in keys for layer in range(2)]
        job = definitions.resolve_job_def("tiny_build_layer")
        for request in requests:
            assert request.asset_selection == [dg.AssetKey(["tiny", "neuron_pages"])]
            job.execute_in_process(
                instance=instance, partition_key=request.partition_key, asset_selection=request.asset_selection
            )
        pages = {key: len(list((tiny.folder.site / key / "00").glob("[0-9]*.html"))) for key in keys}
        assert [pages[key] for key in sorted(keys)] == [12, 2]
        again = schedule.evaluate_tick(context)
        assert not again.run_requests
        assert again.skip_message == "Every checkpoint and layer has its pages."
