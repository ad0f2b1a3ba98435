"""When two results of a stage are the same: code versions, fingerprints, provenance.

A stage's code version is a number raised by hand whenever its code changes what it writes, together with a hash of exactly
the options that it depends on. A fingerprint adds the fingerprints of what the stage read: two results with one fingerprint
hold the same content. Dagster shows it as the data version. It is also kept for each partition and in each file's footer,
because a run over several partitions has one data version only. What to run because of it is decided in `plan.py`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from gluscope_assets.core.files import hash_of, read_provenance
from gluscope_assets.core.model.checkpoint import Checkpoint
from gluscope_assets.core.options import PageSelection, TopNeurons
from gluscope_assets.core.pages.templates import page_version, site_version
from gluscope_assets.core.paths import StudyFolder, layer_name
from gluscope_assets.orchestration.partitions import partition_key
from gluscope_assets.study.study import Study

DATA_VERSION_TAG = "dagster/data_version"

Parts = Callable[[Study], tuple[object, ...]]

STAGES: Mapping[str, tuple[str, Parts]] = {
    # Where the corpus lies does not matter: the version of its content is an input of this stage.
    "tokenized_corpus": ("1", lambda study: (study.corpus.model_dump(exclude={"path"}),)),
    "neuron_weights": ("2", lambda study: (study.model.stack,)),
    "activation_shards": ("3", lambda study: (study.model.dtype, study.model.stack, study.collection.model_dump())),
    "quadrant_aggregates": ("3", lambda study: ()),
    "neuron_pages": ("1", lambda study: (page_version(), study.title, study.model.name, study.site.view)),
    "site": (
        "1",
        lambda study: (
            site_version(),
            study.title,
            study.description,
            study.model.name,
            study.site.view,
            study.site.dataset_license,
        ),
    ),
    "published_site": ("1", lambda study: ()),
}
"""Of each stage: the number raised by hand, and what it depends on beside its inputs."""


def code_version(study: Study, stage: str) -> str:
    """The code version of a stage, such as `1.3f9c2a70b1d4`."""
    number, parts = STAGES[stage]
    return f"{number}.{hash_of(*parts(study))[:12]}"


def fingerprint(study: Study, stage: str, inputs: Mapping[str, object]) -> str:
    """The fingerprint of a stage's result, given the fingerprints of what it reads by name."""
    return hash_of(code_version(study, stage), inputs)[:32]


def provenance(
    study: Study, stage: str, inputs: Mapping[str, object], checkpoint: Checkpoint | None = None
) -> dict[str, object]:
    """What a stage writes into the footer of its files; `inputs` are the fingerprints of what it reads by name."""
    origin = {} if checkpoint is None else {"checkpoint": checkpoint.key, "weights_hash": checkpoint.weights_hash}
    return {
        "study": study.name,
        "model": study.model.name,
        **origin,
        "stage": stage,
        "code_version": code_version(study, stage),
        "inputs": dict(inputs),
        "fingerprint": fingerprint(study, stage, inputs),
    }


def recorded_fingerprint(path: Path) -> str:
    """The fingerprint in the footer of a file."""
    return str(read_provenance(path)["fingerprint"])


def page_inputs(
    study: Study, checkpoint: Checkpoint, layer: int, corpus: str, tables: Mapping[int, tuple[str, str]]
) -> dict[str, object]:
    """What the pages of one layer are made from, by name.

    `tables` are the fingerprints of weights and aggregate, by layer; they hold at least `layers_behind` the pages.
    """
    weights, aggregate = tables[layer]
    return {
        "tokenized_corpus": corpus,
        "neuron_weights": weights,
        "quadrant_aggregates": aggregate,
        "checkpoint": checkpoint.name,
        # Not the whole selection: another checkpoint or layer must not make these pages stale.
        "neurons": selected_neurons(study, checkpoint.name, layer, tables),
    }


def selected_neurons(study: Study, checkpoint_name: str, layer: int, tables: Mapping[int, tuple[str, str]]) -> object:
    """What decides which neurons of a layer get pages: `all`, or the first so many, those listed, and rankings."""
    first, listed, rankings = 0, set[int](), []
    for selection in _selections(study, checkpoint_name, layer):
        if selection.neurons == "all":
            return "all"
        if isinstance(selection.neurons, int):
            first = max(first, selection.neurons)
        elif isinstance(selection.neurons, TopNeurons):
            others = [other for other in _ranked_together(study, selection, layer) if other != layer]
            behind = {layer_name(other): tables[other] for other in others}
            rankings.append({**selection.neurons.model_dump(), "others": behind})
        else:
            listed.update(selection.neurons)
    return {
        "first": first,
        "listed": sorted(neuron for neuron in listed if neuron >= first),
        "rankings": sorted(rankings, key=hash_of),
    }


def layers_behind(study: Study, checkpoint_name: str, layer: int) -> list[int]:
    """The layers whose tables decide which neurons of a layer get pages and what these show; itself among them."""
    behind = {layer}
    for selection in _selections(study, checkpoint_name, layer):
        behind.update(_ranked_together(study, selection, layer))
    return sorted(behind)


def tables_behind(study: Study, folder: StudyFolder, checkpoint: Checkpoint, layer: int) -> dict[int, tuple[str, str]]:
    """The fingerprints of weights and aggregate of each layer that the pages of one are made from."""
    return {
        other: (
            recorded_fingerprint(folder.weights(checkpoint.key, other)),
            recorded_fingerprint(folder.tables(checkpoint.key, other).statistics),
        )
        for other in layers_behind(study, checkpoint.name, layer)
    }


def outdated_pages(study: Study, folder: StudyFolder, checkpoints: Iterable[Checkpoint]) -> list[str]:
    """The partition keys of the pages that are there and would be others now, by their fingerprints.

    The graph does not tell: which neurons get pages also depends on which checkpoint is the last.
    """
    found = []
    for checkpoint in checkpoints:
        for layer in study.model.layer_numbers:
            report = folder.page_report(checkpoint.key, layer)
            if not report.is_file():
                continue
            corpus, tables = recorded_fingerprint(folder.corpus), tables_behind(study, folder, checkpoint, layer)
            expected = fingerprint(study, "neuron_pages", page_inputs(study, checkpoint, layer, corpus, tables))
            if json.loads(report.read_text())["fingerprint"] != expected:
                found.append(str(partition_key(checkpoint.key, layer)))
    return found


def _selections(study: Study, checkpoint_name: str, layer: int) -> list[PageSelection]:
    is_last = checkpoint_name == study.model.checkpoints[-1].name
    return [selection for selection in study.site.pages if selection.holds(checkpoint_name, is_last, layer)]


def _ranked_together(study: Study, selection: PageSelection, layer: int) -> list[int]:
    """The layers that compete with one for its places in a ranking."""
    if isinstance(selection.neurons, TopNeurons) and selection.neurons.of == "checkpoint":
        return [other for other in study.model.layer_numbers if selection.layers == "all" or other in selection.layers]
    return [layer]


def rendered_fingerprints(study: Study, folder: StudyFolder, checkpoints: Iterable[Checkpoint]) -> dict[str, str]:
    """The fingerprints of the pages that lie in the site, by partition key: what the site is made from."""
    found = {}
    for checkpoint in checkpoints:
        for layer in study.model.layer_numbers:
            report = folder.page_report(checkpoint.key, layer)
            if report.is_file():
                found[str(partition_key(checkpoint.key, layer))] = str(json.loads(report.read_text())["fingerprint"])
    return found
