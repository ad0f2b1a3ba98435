"""What a build has to run: the results whose fingerprint is not the expected one, or whose files are gone.

The expected fingerprints follow from options and inputs alone, from the top of the graph down, so nothing has to run to
know them. Running the plan belongs to `build.py`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import dagster as dg

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import Checkpoint, tokenizer_hash
from gluscope_assets.core.paths import AGGREGATE_FILES, MANIFEST, StudyFolder
from gluscope_assets.orchestration.partitions import checkpoint_partitions
from gluscope_assets.orchestration.records import DATA_VERSION_TAG, recorded_metadata
from gluscope_assets.study.fingerprints import (
    LAYER_STAGES,
    FingerprintOf,
    expected_fingerprints,
    fingerprint,
    layers_behind,
    partition_key,
    rendered_fingerprints,
)
from gluscope_assets.study.study import Study


@dataclass(frozen=True)
class LayerRun:
    """One run: some stages of adjacent layers of one checkpoint."""

    checkpoint: Checkpoint
    first_layer: int
    last_layer: int
    stages: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a build runs, in this order."""

    new_checkpoints: list[Checkpoint]
    """Checkpoints without a partition."""
    observe_source: bool
    corpus: bool
    layer_runs: list[LayerRun]
    site: bool

    @property
    def is_empty(self) -> bool:
        return not (self.new_checkpoints or self.observe_source or self.corpus or self.layer_runs or self.site)


@dataclass(frozen=True)
class Planner:
    """Compares what a study's results should be made from with what its instance says they were made from."""

    study: Study
    folder: StudyFolder
    instance: dg.DagsterInstance
    source: str
    """The version of the corpus source's content."""
    checkpoints: Sequence[Checkpoint]
    """All checkpoints of the study."""

    @cached_property
    def corpus(self) -> str:
        """The expected fingerprint of the tokenized corpus."""
        inputs = {"source": self.source, "tokenizer": tokenizer_hash(self.checkpoints[0])}
        return fingerprint(self.study, "tokenized_corpus", inputs)

    def plan(self, chosen: Sequence[Checkpoint], layers: Sequence[int]) -> Plan:
        """What makes `layers` of the `chosen` checkpoints fresh, and the corpus and the site.

        InputError if their pages are chosen by a ranking of layers that are neither asked for nor there.
        """
        partitions = set(self.instance.get_dynamic_partitions(checkpoint_partitions(self.study).name or ""))
        # The site shows what is there, of the other checkpoints and layers too.
        pages = rendered_fingerprints(self.study, self.folder, self.checkpoints)
        runs = []
        for checkpoint in chosen:
            self._check_rankings(checkpoint, layers)
            expected = expected_fingerprints(self.study, checkpoint, self.corpus)
            stale = {stage: self._stale_layers(checkpoint, stage, expected, layers) for stage in LAYER_STAGES}
            # Dropped shards cannot be merged again.
            stale["activation_shards"] |= {
                layer
                for layer in stale["quadrant_aggregates"]
                if not self.folder.layer_shards(checkpoint.key, layer).first_statistics.is_file()
            }
            runs += self._runs(checkpoint, stale)
            pages |= {partition_key(checkpoint.key, layer): expected("neuron_pages", layer) for layer in layers}
        site = fingerprint(self.study, "site", {"neuron_pages": pages})
        return Plan(
            new_checkpoints=[checkpoint for checkpoint in self.checkpoints if checkpoint.key not in partitions],
            observe_source=self._observed_source() != self.source,
            corpus=not self._is_fresh("tokenized_corpus", self.corpus, self.folder.corpus),
            layer_runs=runs,
            site=not self._is_fresh("site", site, self.folder.site / MANIFEST),
        )

    def _runs(self, checkpoint: Checkpoint, stale: Mapping[str, set[int]]) -> list[LayerRun]:
        stages = tuple(stage for stage in LAYER_STAGES if stale[stage])
        spans = adjacent(set().union(*stale.values()), self.study.model.layer_numbers)
        # A ranking of all layers needs the tables of all of them before it gives any pages.
        apart = len(spans) > 1 and "neuron_pages" in stages
        together = (stages[:-1], stages[-1:]) if apart else (stages,)
        return [LayerRun(checkpoint, first, last, some) for some in together if some for first, last in spans]

    def _check_rankings(self, checkpoint: Checkpoint, layers: Sequence[int]) -> None:
        for layer in layers:
            for other in set(layers_behind(self.study, checkpoint.name, layer)) - set(layers):
                for stage in ("neuron_weights", "quadrant_aggregates"):
                    if not self._is_there(checkpoint, stage, other):
                        raise InputError(
                            f"site.pages ranks the neurons of layer {layer} together with those of layer {other}, which is "
                            f"not built at {checkpoint.name}; build both."
                        )

    def _stale_layers(self, checkpoint: Checkpoint, stage: str, expected: FingerprintOf, layers: Sequence[int]) -> set[int]:
        keys = {layer: partition_key(checkpoint.key, layer) for layer in layers}
        recorded = self._recorded(stage, list(keys.values()))
        return {
            layer
            for layer, key in keys.items()
            if recorded.get(key) != expected(stage, layer) or not self._is_there(checkpoint, stage, layer)
        }

    def _is_there(self, checkpoint: Checkpoint, stage: str, layer: int) -> bool:
        """Whether the files of the stage's result for a layer are there. Shards may have been dropped; their record stays."""
        aggregate = self.folder.aggregate(checkpoint.key, layer)
        files = {
            "neuron_weights": [self.folder.weights(checkpoint.key, layer)],
            "activation_shards": [self.folder.layer_shards(checkpoint.key, layer).record],
            "quadrant_aggregates": [aggregate / name for name in AGGREGATE_FILES],
            "neuron_pages": [self.folder.page_report(checkpoint.key, layer)],
        }
        return all(file.is_file() for file in files[stage])

    def _is_fresh(self, stage: str, expected: str, file: Path) -> bool:
        return file.is_file() and self._recorded(stage, None).get(None) == expected

    def _recorded(self, stage: str, partitions: Sequence[str] | None) -> dict[str | None, str]:
        """The fingerprint in the latest materialization of each of `partitions`, or of an asset without partitions."""
        fingerprints: dict[str | None, str] = {}
        for record, metadata in recorded_metadata(self.study, self.instance, stage, partitions):
            fingerprints.setdefault(record.partition_key, str(metadata.get("fingerprint", "")))
            if len(fingerprints) == (1 if partitions is None else len(partitions)):
                break
        return fingerprints

    def _observed_source(self) -> str | None:
        """The version of the corpus source that was observed last."""
        key = dg.AssetKey([self.study.name, "corpus_source"])
        records = self.instance.fetch_observations(key, limit=1).records
        observation = records[0].asset_observation if records else None
        return observation.tags.get(DATA_VERSION_TAG) if observation is not None else None


def adjacent(chosen: Collection[int], layers: Sequence[int]) -> list[tuple[int, int]]:
    """The (first, last) of each run of neighbours in `layers`: {0, 2, 3} of 0 to 3 gives (0, 0) and (2, 3)."""
    runs = [list(group) for is_chosen, group in groupby(layers, key=lambda layer: layer in chosen) if is_chosen]
    return [(run[0], run[-1]) for run in runs]
