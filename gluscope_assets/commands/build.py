"""`gluscope build`: what is stale of a study, materialized through Dagster in this process.

What belongs here: running a plan and telling of it. What does not: deciding what is stale, which is `plan.py`'s.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import dagster as dg
from cyclopts import Parameter

from gluscope_assets.commands.arguments import StudyName, named_checkpoints, named_layers, named_study
from gluscope_assets.commands.instance import execute_job, only_build, open_instance, retire_dead_runs
from gluscope_assets.commands.plan import LayerRun, Plan, Planner
from gluscope_assets.core.corpus.tokenize import source_version
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.core.model.loading import check_checkpoint
from gluscope_assets.core.pages.selection import check_lists
from gluscope_assets.core.paths import StudyFolder
from gluscope_assets.definitions import build_defs
from gluscope_assets.orchestration.jobs import observe_corpus_job
from gluscope_assets.orchestration.partitions import RANGE_END_TAG, RANGE_START_TAG, checkpoint_partitions
from gluscope_assets.orchestration.records import checkpoint_event
from gluscope_assets.orchestration.resources import ProgressDisplay
from gluscope_assets.study.fingerprints import partition_key
from gluscope_assets.study.registry import look_for_checkpoints, with_registry
from gluscope_assets.study.study import Study, load_study


def build(
    *,
    study_name: StudyName = "demo",
    checkpoint: Annotated[
        list[str] | None, Parameter(consume_multiple=1, help="Names or keys of checkpoints (default: all).")
    ] = None,
    layers: Annotated[str | None, Parameter(help="Numbers and ranges such as 0,2-3 (default: all).")] = None,
) -> None:
    """Plan, run the plan, say where the site is."""
    study, folder = named_study(study_name)
    if study.model.discover is not None:
        given = load_study(study.file)
        print(f"{study.name}: {look_for_checkpoints(given, folder)}")
        study = with_registry(given, folder)
    chosen_layers = named_layers(layers, study)
    checkpoints = [resolve_checkpoint(options) for options in study.model.checkpoints]
    if not checkpoints:
        raise InputError(f"{study.file}: no checkpoint has appeared where model.discover looks; build again when one has.")
    chosen = named_checkpoints(checkpoint, checkpoints, study)
    source = source_version(study.corpus)
    with only_build(), open_instance() as instance:
        plan = Planner(study, folder, instance, source, checkpoints).plan(chosen, chosen_layers)
        if plan.is_empty:
            print(f"{study.name}: everything is fresh, nothing to do.")
        else:
            # Before anything is written, so that a model that does not fit leaves nothing behind.
            for built in dict.fromkeys(run.checkpoint for run in plan.layer_runs):
                shape = check_checkpoint(built, study.model.layer_numbers, study.model.stack)
                check_lists(study.site.pages, {layer: shape.neurons(layer) for layer in shape.layers})
            retire_dead_runs(instance)
            run_plan(study, plan, instance)
    _print_site(study_name, folder)


def run_plan(study: Study, plan: Plan, instance: dg.DagsterInstance) -> None:
    """Run what a plan holds, one run after the other, saying which."""
    display = ProgressDisplay(style="bars" if sys.stderr.isatty() else "lines")
    definitions = build_defs([study], resources={"progress": display})
    job = definitions.resolve_implicit_global_asset_job_def()

    def run(stages: Sequence[str], said: str, tags: Mapping[str, str] | None = None) -> None:
        print(f"{study.name}: {said}", flush=True)
        execute_job(job, instance, [dg.AssetKey([study.name, stage]) for stage in stages], tags)

    if plan.new_checkpoints:
        keys = [checkpoint.key for checkpoint in plan.new_checkpoints]
        instance.add_dynamic_partitions(checkpoint_partitions(study).name or "", keys)
        for checkpoint in plan.new_checkpoints:
            instance.report_runless_asset_event(checkpoint_event(study, checkpoint))
    if plan.observe_source:
        execute_job(definitions.resolve_job_def(observe_corpus_job(study).name), instance)
    if plan.corpus:
        run(["tokenized_corpus"], "tokenized_corpus")
    for layer_run in plan.layer_runs:
        key = layer_run.checkpoint.key
        first, last = partition_key(key, layer_run.first_layer), partition_key(key, layer_run.last_layer)
        run(layer_run.stages, _described(layer_run), {RANGE_START_TAG: first, RANGE_END_TAG: last})
    if plan.site:
        run(["site"], "site")


def _described(run: LayerRun) -> str:
    one = run.first_layer == run.last_layer
    layers = f"layer {run.first_layer}" if one else f"layers {run.first_layer}–{run.last_layer}"
    return f"{run.checkpoint.name}, {layers}: {', '.join(run.stages)}"


def _print_site(study_name: str, folder: StudyFolder) -> None:
    index = folder.site / "index.html"
    command = "gluscope" if shutil.which("gluscope") else os.path.relpath(Path(sys.executable).with_name("gluscope"))
    print(f"\nThe site is at {index}")
    print(f"  open   {index.as_uri()}")
    print(f"  serve  {command} serve --study {study_name}")
