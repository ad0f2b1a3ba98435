"""The definitions load, validate, and say what a person in the UI wants to know."""

import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from gluscope_assets.definitions import build_defs
from gluscope_assets.study.study import find_studies, load_study
from gluscope_assets_tests.conftest import Workplace
from gluscope_assets_tests.support.tiny import study_content, write_corpus, write_study

STAGES = {
    "corpus_source": set(),
    "tokenized_corpus": {"corpus_source"},
    "model_checkpoint": set(),
    "neuron_weights": {"model_checkpoint"},
    "activation_shards": {"tokenized_corpus", "model_checkpoint"},
    "quadrant_aggregates": {"activation_shards"},
    "neuron_pages": {"quadrant_aggregates", "neuron_weights", "tokenized_corpus"},
    "site": {"neuron_pages"},
    "published_site": {"site"},
}


@pytest.fixture
def definitions(tmp_path: Path) -> dg.Definitions:
    write_corpus(tmp_path / "corpus")
    return build_defs([load_study(write_study(tmp_path / "tiny.yaml", study_content()))])


def test_the_shipped_studies_load_and_validate() -> None:
    assert "demo" in find_studies()
    dg.Definitions.validate_loadable(build_defs(find_studies().values()))


def test_loading_imports_no_deep_learning_library_and_is_quick() -> None:
    code = "import sys, gluscope_assets.definitions; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    times = []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.monotonic() - began)
    # A code server times out at minutes; torch and transformers alone take several seconds on a busy machine.
    assert min(times) < 10


def test_the_graph_is_the_documented_one(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {key.path[-1]: {parent.path[-1] for parent in graph.get(key).parent_keys} for key in graph.get_all_asset_keys()}
    assert found == STAGES


def test_every_asset_says_what_it_is(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert all([node.description, node.group_name, node.owners, node.kinds]), key
        assert node.code_version or not node.is_materializable, key


def test_layers_share_one_run_and_the_gpu_has_a_pool(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for stage in ("neuron_weights", "activation_shards", "quadrant_aggregates", "neuron_pages"):
        node = graph.get(dg.AssetKey(["tiny", stage]))
        assert node.backfill_policy == dg.BackfillPolicy.single_run()
        assert isinstance(node.partitions_def, dg.MultiPartitionsDefinition)
    assert graph.get(dg.AssetKey(["tiny", "activation_shards"])).pools == {"gpu"}
    assert graph.get(dg.AssetKey(["tiny", "published_site"])).automation_condition is None


def test_checks_block_and_are_not_partitioned(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    names = {key.name for key in graph.asset_check_keys}
    assert names >= {
        "counts_add_up", "signs_fit_quadrants", "lists_are_ordered", "sums_fit_largest", "nothing_is_nan",
        "post_is_act_times_in", "windows_hold_their_peak", "pages_within_budget", "links_resolve",
    }  # fmt: skip
    for key in graph.asset_check_keys:
        node = graph.get(key)
        assert node.blocking
        assert node.partitions_def is None


def test_automation_leaves_the_gpu_alone_until_it_is_switched_on(definitions: dg.Definitions) -> None:
    status = {sensor.name: sensor.default_status for sensor in definitions.sensors or ()}
    assert status == {
        "tiny_new_checkpoints": dg.DefaultSensorStatus.RUNNING,
        "automation_cpu": dg.DefaultSensorStatus.RUNNING,
        "automation_gpu": dg.DefaultSensorStatus.STOPPED,
        "failure_alerts": dg.DefaultSensorStatus.STOPPED,
    }


def test_the_sensor_adds_each_new_checkpoint_once(fresh: Workplace) -> None:
    definitions = build_defs([fresh.study])
    sensor = definitions.resolve_sensor_def("tiny_new_checkpoints")
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, definitions=definitions)
        result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        (request,) = result.dynamic_partitions_requests or ()
        assert [key.rpartition("-")[0] for key in request.partition_keys] == ["first", "second"]
        assert len(result.asset_events) == 2
        instance.add_dynamic_partitions("tiny_checkpoints", list(request.partition_keys))
        again = sensor(dg.build_sensor_context(instance=instance, definitions=definitions))
        assert isinstance(again, dg.SensorResult)
        assert again.skip_reason is not None
