"""The collection: the corpus forwarded once, shard by shard, for some layers of one checkpoint.

What belongs here: what a collection is, which of its shards are to be made, and what is written about them. A `Collection` and
the number of a corpus shard, both plain data, describe a unit of work, so that another machine can do it. What does not: the
processes and threads (`workers`), how a shard comes about (`shard_state`, `forward`, `reduction`), the files (`shards`).
"""

import platform
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

import gluscope_assets
from gluscope_assets.core.collect import kernel, shards
from gluscope_assets.core.collect.forward import Forward
from gluscope_assets.core.collect.shard_state import ShardState
from gluscope_assets.core.collect.workers import (
    POLL_SECONDS,
    TokenCounter,
    Worker,
    one_thread_each,
    plan_workers,
    run_processes,
    wait_for_all,
)
from gluscope_assets.core.corpus.sample import Sample, choose_sample
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import hash_of
from gluscope_assets.core.model.checkpoint import Checkpoint
from gluscope_assets.core.model.gated_mlp import GatedMLP, Stack
from gluscope_assets.core.model.loading import ModelShape, check_checkpoint, load_model
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets.core.paths import LayerShards
from gluscope_assets.core.processes import available_cores
from gluscope_assets.core.progress import Progress, no_progress
from gluscope_assets.core.quadrants import QUADRANTS


class Collection(BaseModel):
    """What one collection is, as plain data: all shards of some layers of one checkpoint."""

    model_config = ConfigDict(frozen=True)

    checkpoint: Checkpoint
    dtype: str
    """Of the forward pass."""
    corpus: Path
    """The file that `tokenize_corpus` wrote."""
    layers: tuple[int, ...]
    model_layers: tuple[int, ...]
    """All layers with a gated MLP, as the study says; checked against the model."""
    stack: Stack | None = None
    """Which layers of a model with encoder and decoder."""
    device_map: str | None = None
    """`auto` spreads the model over all GPUs."""
    options: CollectionOptions
    root: Path
    """Where the shards of the checkpoint lie."""
    provenance: dict[str, Any]
    """What the files' footers begin with; its `fingerprint` is that of the whole collection."""
    origin: str | None = None
    """What the numbers of a text follow from beside its tokens; the fingerprint if absent. Where this is the same, shards of
    texts that are the same are kept when the corpus around them changes."""


@dataclass
class CollectionReport:
    """What one collection did. Of shards that were finished before only bytes and frequency tell."""

    tokens: int = 0
    """Forwarded now."""
    texts: int = 0
    seconds: float = 0.0
    shards: int = 0
    resumed: int = 0
    """Shards that were finished before."""
    workers: int = 0
    bytes: dict[int, int] = field(default_factory=dict)
    """Bytes of the shards of each layer."""
    frequency: dict[int, list[float]] = field(default_factory=dict)
    """Share of the counted positions routed to them in each quadrant, over the neurons of each layer."""
    device: str = ""
    """What it ran on."""
    dtype: str = ""

    def metadata(self, layer: int) -> dict[str, str | int | float | Path]:
        """What is said of it and of a layer's shards."""
        return {
            "tokens": self.tokens,
            "texts": self.texts,
            "tokens per second": self.tokens / self.seconds,
            "seconds": self.seconds,
            "shards": self.shards,
            "shards finished before": self.resumed,
            "processes": self.workers,
            "device": self.device,
            "dtype": self.dtype,
            **software_versions(),
            "bytes": self.bytes[layer],
            **{f"share of {quadrant}": share for quadrant, share in zip(QUADRANTS, self.frequency[layer], strict=True)},
        }


def collect(
    collection: Collection, devices: Sequence[str], progress: Progress = no_progress, processes: int | None = None
) -> CollectionReport:
    """Write every shard of `collection` that is not finished yet, with a process for each of `devices`.

    A single device `cpu` is shared by `processes` processes, or as many as its cores keep busy. Progress counts tokens.
    InputError if model, tokenizer or corpus do not fit each other, or a process died.
    """
    job = Job(collection, devices[0])
    job.check()
    began = time.monotonic()
    unfinished = job.unfinished_shards()
    workers = plan_workers(devices, len(unfinished), processes)
    report = CollectionReport(
        texts=job.corpus.n_texts,
        shards=job.corpus.n_shards,
        resumed=job.corpus.n_shards - len(unfinished),
        workers=len(workers),
        device=device_label(devices),
        dtype=collection.dtype,
    )

    def count_tokens(tokens: int) -> None:
        report.tokens += tokens
        progress(report.tokens, job.tokens_of(unfinished))

    if len(workers) == 1:
        run_job(collection, workers[0], count_tokens)
    elif workers:
        codes = run_processes(run_job, collection, workers, count_tokens)
        # What a killed process left undone, the others have taken over.
        if job.unfinished_shards():
            raise InputError(
                f"All collecting processes ended early (exit codes {', '.join(map(str, codes))}); run gluscope build again to "
                "go on."
            )
    shards.sweep(collection.root, collection.layers, job.corpus.n_shards)
    for layer in collection.layers:
        of_layer = LayerShards(collection.root, layer)
        shards.write_record(of_layer, job.record)
        manifests = [shards.read_shard_manifest(of_layer.shard(shard)) for shard in range(job.corpus.n_shards)]
        cells = sum(manifest.routed for manifest in manifests) or 1
        counts = [sum(manifest.count[q] for manifest in manifests) for q in range(len(QUADRANTS))]
        report.bytes[layer] = sum(manifest.bytes for manifest in manifests)
        report.frequency[layer] = [count / cells for count in counts]
    report.seconds = time.monotonic() - began
    return report


def device_label(devices: Sequence[str]) -> str:
    """What a forward pass runs on, such as `2 × NVIDIA H200` or `CPU with 16 cores`."""
    if not devices[0].startswith("cuda"):
        return f"CPU with {available_cores()} cores" if devices[0] == "cpu" else devices[0]
    name = torch.cuda.get_device_name(devices[0])
    return name if len(devices) == 1 else f"{len(devices)} × {name}"


def software_versions() -> dict[str, str]:
    """The versions of what computes a forward pass and its reduction, by package."""
    packages = {name: version(name) for name in ("torch", "transformers", "polars")}
    return {"gluscope": gluscope_assets.__version__, "python": platform.python_version(), **packages}


def run_job(collection: Collection, worker: Worker, count_tokens: TokenCounter) -> None:
    """Do the shards of a collection that no other process does: what a worker's process is given."""
    Job(collection, worker.device, worker.threads).run(count_tokens)


class Job:
    """A collection on one device of this machine. Model and corpus are read when first needed."""

    def __init__(self, collection: Collection, device: str, threads: int = 1) -> None:
        self.collection, self.device, self.threads = collection, device, threads

    @cached_property
    def corpus(self) -> TokenizedCorpus:
        """All texts."""
        return TokenizedCorpus.open(self.collection.corpus)

    @cached_property
    def sample(self) -> Sample:
        """The sampled positions of all texts."""
        return choose_sample(self.corpus, self.collection.options)

    @cached_property
    def shape(self) -> ModelShape:
        """What the model has. InputError as `check_checkpoint`."""
        return check_checkpoint(self.collection.checkpoint, self.collection.model_layers, self.collection.stack)

    @cached_property
    def model(self) -> Any:
        """The model with its weights. InputError as `load_model`."""
        collection = self.collection
        return load_model(collection.checkpoint, collection.dtype, self.device, collection.device_map)

    def _device_of(self, mlp: GatedMLP) -> str:
        """Where the weights of an MLP lie."""
        return str(self.model.get_parameter(mlp.gate.parameter).device)

    @cached_property
    def computed_on(self) -> str:
        """The software and hardware whose rounding the numbers have: shards of two kinds are never mixed."""
        if self.device == "cpu":
            reduction = "C kernel" if kernel.load() is not None else "torch"
            return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {reduction}"
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(self.device)}"

    @cached_property
    def texts_hashes(self) -> list[str]:
        """Of the texts of each shard."""
        return [self.corpus.hash_of_shard(shard) for shard in range(self.corpus.n_shards)]

    def fingerprint_of(self, shard: int) -> str:
        """What a shard is made from."""
        return hash_of(self._origin, self.texts_hashes[shard])[:32]

    @property
    def _origin(self) -> str:
        return self.collection.origin or str(self.collection.provenance["fingerprint"])

    @property
    def record(self) -> shards.Record:
        """What is written when all shards are finished."""
        fingerprints = [self.fingerprint_of(shard) for shard in range(self.corpus.n_shards)]
        return shards.Record(str(self.collection.provenance["fingerprint"]), self.corpus.content_hash, fingerprints)

    def check(self) -> None:
        """InputError if checkpoint and corpus do not fit."""
        checkpoint, highest = self.collection.checkpoint, int(self.corpus.token.max())
        if highest >= self.shape.vocabulary:
            raise InputError(
                f"{self.corpus.path} holds token {highest} and checkpoint {checkpoint.name} has a vocabulary of only "
                f"{self.shape.vocabulary}; tokenize the corpus with the model's own tokenizer."
            )

    def tokens_of(self, chosen: Sequence[int]) -> int:
        """The tokens of some shards."""
        return int(np.diff(self.corpus.offsets)[np.isin(self.corpus.shards, chosen)].sum())

    def unfinished_shards(self) -> list[int]:
        """The shards with unfinished layers."""
        return [shard for shard in range(self.corpus.n_shards) if self.unfinished_layers(shard)]

    def unfinished_layers(self, shard: int) -> list[int]:
        """The layers whose shard is missing, or was made from other things or elsewhere."""
        fingerprint = self.fingerprint_of(shard)
        root = self.collection.root
        return [
            layer
            for layer in self.collection.layers
            if not shards.is_finished(LayerShards(root, layer).shard(shard), fingerprint, self.computed_on)
        ]

    def run(self, count_tokens: TokenCounter) -> None:
        """Do the shards that no other process does, until all are finished."""
        with one_thread_each(self.threads) as pool:
            unfinished = list(range(self.corpus.n_shards))
            while unfinished := [shard for shard in unfinished if self.unfinished_layers(shard)]:
                with ExitStack() as written:
                    claims = sum(self._collect_if_free(shard, pool, written, count_tokens) for shard in unfinished)
                if not claims:
                    time.sleep(POLL_SECONDS)

    def _collect_if_free(self, shard: int, pool: ThreadPoolExecutor, written: ExitStack, count_tokens: TokenCounter) -> bool:
        """Do a shard unless another process does it. It may still be being written until `written` is closed."""
        with ExitStack() as claim:
            if not claim.enter_context(shards.claimed(self.collection.root, shard)):
                return False
            if layers := self.unfinished_layers(shard):
                writing = self.collect_shard(shard, layers, pool, count_tokens)
                written.close()
                claim.callback(wait_for_all, writing)
                if self.writes_beside:
                    written.push(claim.pop_all())
        return True

    @property
    def writes_beside(self) -> bool:
        """Whether a shard is written while the next one is forwarded: where the cores have nothing else to do."""
        return self.device != "cpu"

    def collect_shard(
        self, shard: int, layers: Sequence[int], pool: ThreadPoolExecutor, count_tokens: TokenCounter
    ) -> list[Future[None]]:
        """One unit of work: forward the packs of a shard, and begin to write it for some layers."""
        collection, corpus = self.collection, self.corpus
        mlps = [mlp for mlp in self.shape.mlps if mlp.layer in set(layers)]
        with Forward(self.model, mlps, self.collection.stack) as forward:
            texts = np.flatnonzero(corpus.shards == shard)
            state = ShardState(corpus, texts, mlps, collection.options, self.sample, self.device, self._device_of)
            # Work for a GPU is queued by one thread.
            threads = self.threads if self.device == "cpu" else 1
            state.fold(forward, corpus.packs_of_shard(shard), pool, threads, count_tokens)
        tokens = self.tokens_of([shard])
        footer = {
            **collection.provenance,
            "fingerprint": self.fingerprint_of(shard),
            "inputs": {"origin": self._origin, "texts": self.texts_hashes[shard]},
            "dtype": collection.dtype,
            "computed_on": self.computed_on,
            # A model rounds by how much it takes at once: whoever compares files to the byte must know.
            **({"batches_halved": state.halved} if state.halved else {}),
        }

        def write(layer: int) -> None:
            own = {"activation": state.activation_of(layer)}
            shards.write_shard(state.aggregate(layer), collection.root, shard, tokens, footer | own)

        return [pool.submit(write, layer) for layer in sorted(state.layers)]
