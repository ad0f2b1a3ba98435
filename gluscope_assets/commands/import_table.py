"""`gluscope import`: a table of the paper as the aggregates of a checkpoint, for `gluscope serve` to show.

How the table is read belongs to `core/exchange/paper_schema.py`.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gluscope_assets.commands.arguments import StudyName, named_checkpoints, named_study
from gluscope_assets.commands.build import run_plan
from gluscope_assets.commands.instance import only_build, open_instance
from gluscope_assets.commands.plan import Planner
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.corpus.tokenize import source_version
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.exchange.paper_schema import import_paper
from gluscope_assets.core.files import hash_files
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.core.model.loading import check_checkpoint
from gluscope_assets.study.fingerprints import provenance


def import_table(
    table: Annotated[Path, Parameter(help="A Parquet file in the paper's schema, with raw values.")],
    /,
    *,
    checkpoint_name: Annotated[str, Parameter(name="--checkpoint", help="Whose neurons the table is of: a name or key.")],
    study_name: StudyName = "demo",
) -> None:
    """Make a table of the paper the aggregates of a checkpoint; corpus and weights are built, activations are not."""
    study, folder = named_study(study_name)
    checkpoints = [resolve_checkpoint(options) for options in study.model.checkpoints]
    (checkpoint,) = named_checkpoints([checkpoint_name], checkpoints, study)
    shape = check_checkpoint(checkpoint, study.model.layer_numbers, study.model.stack)
    if not table.is_file():
        raise InputError(f"{table} does not exist; name a Parquet file in the paper's schema.")
    digest = hash_files(table)
    with only_build(), open_instance() as instance:
        plan = Planner(study, folder, instance, source_version(study.corpus), checkpoints).plan([checkpoint], shape.layers)
        weights = [replace(run, stages=("neuron_weights",)) for run in plan.layer_runs if "neuron_weights" in run.stages]
        run_plan(study, replace(plan, layer_runs=weights, site=False), instance)
        corpus = TokenizedCorpus.open(folder.corpus)
        positions = corpus.n_tokens if study.collection.count_special_tokens else corpus.n_counted
        footer = provenance(study, "quadrant_aggregates", {"imported": digest}, checkpoint)
        destination, activation = partial(folder.aggregate, checkpoint.key), shape.mlps[0].activation
        layers = import_paper(table, destination, positions, activation, footer, shape.mlps[0].name)
    print(f"{study.name}: {len(layers)} layers of {checkpoint.name} are those of {table}; gluscope serve shows them.")
