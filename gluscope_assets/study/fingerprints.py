"""When two results of a stage are the same: code versions, fingerprints, provenance.

A stage's code version has two parts. The second is a hash of exactly the options that it depends on. The first follows from
the code that makes its results (`closure`) where making them again is cheap, as of pages and the site. Where it is not, it is
a number that is raised by hand when the code changes what it writes, with the code's hash recorded beside it: a test compares
them, so that nobody changes the code without deciding. A fingerprint adds the fingerprints of what the stage read: two results
with one fingerprint hold the same content. Dagster shows it as the data version. It is also kept for each partition and in
each file's footer, because a run over several partitions has one data version only. What to run because of it is decided in
`commands/plan.py`.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gluscope_assets.core.collect.shards import read_record
from gluscope_assets.core.files import hash_of, read_provenance
from gluscope_assets.core.model.checkpoint import Checkpoint
from gluscope_assets.core.options import PageSelection, TopNeurons
from gluscope_assets.core.pages import templates
from gluscope_assets.core.paths import StudyFolder, layer_name, site_files
from gluscope_assets.study.batch import LayerBatch
from gluscope_assets.study.closure import PACKAGE, ROOT, import_closure, templates_of, version_of
from gluscope_assets.study.study import Study


@dataclass(frozen=True)
class Stage:
    """What decides a stage's code version."""

    options: Callable[[Study], tuple[object, ...]]
    """What it depends on of a study beside its inputs."""
    number: str | None = None
    """Raised by hand whenever its code changes what it writes; absent where the version follows from the code."""
    recorded: str = ""
    """The first digits of `code_hash` when somebody last decided about the number."""
    all_templates: bool = False
    """Whether every template and static file is copied or filled, not only those that its code names."""


STAGES: dict[str, Stage] = {
    # Where the corpus lies does not matter: the version of its content is an input of this stage.
    "tokenized_corpus": Stage(lambda study: (study.corpus.model_dump(exclude={"path"}),), "1", "7bf69b69d68a"),
    "neuron_weights": Stage(lambda study: (study.model.stack,), "2", "d03250a7a2a3"),
    "activation_shards": Stage(
        lambda study: (study.model.dtype, study.model.stack, study.collection.model_dump()), "3", "44d8ac6faf47"
    ),
    "quadrant_aggregates": Stage(lambda study: (), "3", "2c8481495847"),
    "neuron_pages": Stage(lambda study: (study.title, study.model.name, study.site.view)),
    "site": Stage(
        lambda study: (study.title, study.description, study.model.name, study.site.view, study.site.dataset_license),
        all_templates=True,
    ),
    "published_site": Stage(lambda study: (), "1", "a5d7c7f28000"),
}

HASH_SHOWN = 12
"""Digits of the hashes in a code version, and of a recorded one."""


def code_of(stage: str, root: Path = ROOT) -> tuple[Path, ...]:
    """The files that decide what a stage makes: its module's import closure, and the templates and static files it uses."""
    files = import_closure(f"{PACKAGE}.study.stages.{stage}", root)
    folder = templates.template_folder()
    return (*files, *(sorted(site_files(folder)) if STAGES[stage].all_templates else templates_of(files)))


def code_hash(stage: str, root: Path = ROOT) -> str:
    """The hash of `code_of` a stage."""
    return version_of(code_of(stage, root), root)[:HASH_SHOWN]


@cache
def _hash_of_running_code(stage: str, template_folder: Path) -> str:
    # What runs was loaded once, and a plan asks for every layer.
    return code_hash(stage)


def code_version(study: Study, stage: str) -> str:
    """The code version of a stage, such as `3.3f9c2a70b1d4`; first comes its number, or the hash of its code."""
    declared = STAGES[stage]
    code = declared.number or _hash_of_running_code(stage, templates.template_folder())
    return f"{code}.{hash_of(*declared.options(study))[:HASH_SHOWN]}"


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


def partition_key(checkpoint_key: str, layer: int) -> str:
    """One layer of one checkpoint, as Dagster writes its partition's key."""
    return f"{checkpoint_key}|{layer_name(layer)}"


def named_layer(partition_key: str) -> tuple[str, int]:
    """The key of the checkpoint and the layer that a `partition_key` stands for."""
    checkpoint_key, _, layer = partition_key.rpartition("|")
    return checkpoint_key, int(layer)


# What layers are made from

LAYER_STAGES: dict[str, tuple[str, ...]] = {
    "neuron_weights": (),
    "activation_shards": ("tokenized_corpus",),
    "quadrant_aggregates": ("activation_shards",),
    "neuron_pages": ("tokenized_corpus", "neuron_weights", "quadrant_aggregates"),
}
"""The stages whose results are made a layer at a time, in the order of the graph, and the stages that each of them reads."""

FingerprintOf = Callable[[str, int], str]
"""Gives the fingerprint of what a stage has made, or should make, of a layer of some checkpoint."""


def batch_of(study: Study, folder: StudyFolder, checkpoint: Checkpoint, stage: str, layers: Sequence[int]) -> LayerBatch:
    """Layers to make a stage of, with the provenance of what is made. InputError if what they are made from is not there."""
    stored = stored_fingerprints(folder, checkpoint)
    footers = {
        layer: provenance(study, stage, layer_inputs(study, checkpoint, stage, layer, stored), checkpoint) for layer in layers
    }
    return LayerBatch(study, folder, checkpoint, footers, fingerprint(study, stage, {"weights": checkpoint.weights_hash}))


def layer_inputs(
    study: Study, checkpoint: Checkpoint, stage: str, layer: int, fingerprint_of: FingerprintOf
) -> dict[str, object]:
    """What a stage's result of a layer is made from, by name, given the fingerprints of what other stages made."""
    inputs: dict[str, object] = {read: fingerprint_of(read, layer) for read in LAYER_STAGES[stage]}
    if stage in ("neuron_weights", "activation_shards"):
        inputs["weights"] = checkpoint.weights_hash
    elif stage == "neuron_pages":
        inputs["checkpoint"] = checkpoint.name
        # Not the whole selection: another checkpoint or layer must not make these pages stale.
        inputs["neurons"] = selected_neurons(study, checkpoint.name, layer, fingerprint_of)
    return inputs


def stored_fingerprints(folder: StudyFolder, checkpoint: Checkpoint) -> FingerprintOf:
    """The fingerprints of what lies in a study's folder, read when asked for. InputError if it is not there."""

    def stored(stage: str, layer: int) -> str:
        tables = folder.tables(checkpoint.key, layer)
        if stage == "activation_shards":
            return read_record(folder.layer_shards(checkpoint.key, layer)).fingerprint
        files = {"tokenized_corpus": folder.corpus, "neuron_weights": tables.weights, "quadrant_aggregates": tables.statistics}
        return recorded_fingerprint(files[stage])

    return stored


def expected_fingerprints(study: Study, checkpoint: Checkpoint, corpus: str) -> FingerprintOf:
    """The fingerprints that a checkpoint's results should have, given that of the tokenized corpus."""

    @cache
    def expected(stage: str, layer: int) -> str:
        if stage == "tokenized_corpus":
            return corpus
        return fingerprint(study, stage, layer_inputs(study, checkpoint, stage, layer, expected))

    return expected


def selected_neurons(study: Study, checkpoint_name: str, layer: int, fingerprint_of: FingerprintOf) -> object:
    """What decides which neurons of a layer get pages: `all`, or the first so many, those listed, and rankings."""
    first, listed, rankings = 0, set[int](), []
    for selection in _selections(study, checkpoint_name, layer):
        if selection.neurons == "all":
            return "all"
        if isinstance(selection.neurons, int):
            first = max(first, selection.neurons)
        elif isinstance(selection.neurons, TopNeurons):
            others = [other for other in _ranked_together(study, selection, layer) if other != layer]
            ranked = ("neuron_weights", "quadrant_aggregates")
            behind = {layer_name(other): [fingerprint_of(stage, other) for stage in ranked] for other in others}
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
    ranked = (_ranked_together(study, selection, layer) for selection in _selections(study, checkpoint_name, layer))
    return sorted({layer}.union(*ranked))


def outdated_pages(study: Study, folder: StudyFolder, checkpoints: Iterable[Checkpoint]) -> list[str]:
    """The `partition_key`s of the pages that are there and would be others now, by their fingerprints.

    The graph does not tell: which neurons get pages also depends on which checkpoint is the last.
    """
    outdated = []
    for checkpoint in checkpoints:
        stored = stored_fingerprints(folder, checkpoint)
        for name, rendered in rendered_fingerprints(study, folder, [checkpoint]).items():
            _, layer = named_layer(name)
            inputs = layer_inputs(study, checkpoint, "neuron_pages", layer, stored)
            if rendered != fingerprint(study, "neuron_pages", inputs):
                outdated.append(name)
    return outdated


def _selections(study: Study, checkpoint_name: str, layer: int) -> list[PageSelection]:
    is_last = checkpoint_name == study.model.checkpoints[-1].name
    return [selection for selection in study.site.pages if selection.holds(checkpoint_name, is_last, layer)]


def _ranked_together(study: Study, selection: PageSelection, layer: int) -> list[int]:
    """The layers that compete with one for its places in a ranking."""
    if isinstance(selection.neurons, TopNeurons) and selection.neurons.of == "checkpoint":
        return [other for other in study.model.layer_numbers if selection.layers == "all" or other in selection.layers]
    return [layer]


def rendered_fingerprints(study: Study, folder: StudyFolder, checkpoints: Iterable[Checkpoint]) -> dict[str, str]:
    """The fingerprints of the pages that lie in the site, by `partition_key`: what the site is made from."""
    reports = {
        partition_key(checkpoint.key, layer): folder.page_report(checkpoint.key, layer)
        for checkpoint in checkpoints
        for layer in study.model.layer_numbers
    }
    return {name: str(json.loads(path.read_text())["fingerprint"]) for name, path in reports.items() if path.is_file()}
