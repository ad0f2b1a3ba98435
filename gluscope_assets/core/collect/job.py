"""The collection: the corpus forwarded once, shard by shard, by as many processes and threads as the machine has.

What belongs here: the unit of work and who does it when. The forward pass, the reduction and the files are in `forward`,
`reduction` and `shards`. A unit of work is described by a `Collection` and the number of a corpus shard, both plain
data, so that another machine can do it.
"""

import logging
import multiprocessing
import os
import platform
import queue
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from threading import Condition, Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict

import gluscope_assets
from gluscope_assets.core.collect import kernel, shards
from gluscope_assets.core.collect.forward import Batch, Forward
from gluscope_assets.core.collect.reduction import LayerState
from gluscope_assets.core.corpus.sample import Sample, choose_sample
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.errors import InputError, OutOfMemory
from gluscope_assets.core.files import hash_of
from gluscope_assets.core.model.checkpoint import Checkpoint, ModelShape, check_checkpoint, load_model
from gluscope_assets.core.model.gated_mlp import Activations, GatedMLP, Stack
from gluscope_assets.core.model.taps import Receiver
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets.core.paths import LayerShards
from gluscope_assets.core.progress import Progress, no_progress
from gluscope_assets.core.quadrants import LISTS, QUADRANTS
from gluscope_assets.core.tables.aggregate import NO_EXPERT, NO_TOKEN, Aggregate, concatenate

logger = logging.getLogger(__name__)

THREADS_A_PROCESS = 4
"""CPU threads that share one process's state. More would wait for Python; more processes would hold more states."""

POLL_SECONDS = 0.5
"""How often a process with nothing to claim looks again."""

DEVICE_SHARE = 0.5
"""The share of a GPU's free memory that windows may take before they move to the host."""


TokenCounter = Callable[[int], None]
"""Called with a number of tokens when they have been forwarded."""


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
    """All layers with a gated MLP; checked against the model."""
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
    report = CollectionReport(texts=job.corpus.n_texts, shards=job.corpus.n_shards)
    report.device, report.dtype = device_label(devices), collection.dtype
    began = time.monotonic()
    unfinished = [shard for shard in range(job.corpus.n_shards) if job.unfinished_layers(shard)]
    report.resumed = report.shards - len(unfinished)
    workers = plan_workers(devices, len(unfinished), processes)
    report.workers = len(workers)

    def count_tokens(tokens: int) -> None:
        report.tokens += tokens
        progress(report.tokens, job.tokens_of(unfinished))

    if len(workers) == 1:
        Job(collection, workers[0].device, workers[0].threads).run(count_tokens)
    elif workers:
        _run_processes(collection, workers, count_tokens)
    shards.sweep(collection.root, collection.layers, job.corpus.n_shards)
    for layer in collection.layers:
        shards.write_record(LayerShards(collection.root, layer), job.record)
    report.seconds = time.monotonic() - began
    for layer in collection.layers:
        of_layer = LayerShards(collection.root, layer)
        manifests = [shards.read_manifest(of_layer.shard(shard)) for shard in range(job.corpus.n_shards)]
        cells = sum(manifest.routed for manifest in manifests) or 1
        counts = [sum(manifest.count[q] for manifest in manifests) for q in range(len(QUADRANTS))]
        report.bytes[layer] = sum(manifest.bytes for manifest in manifests)
        report.frequency[layer] = [count / cells for count in counts]
    return report


def device_label(devices: Sequence[str]) -> str:
    """What a forward pass runs on, such as `2 × NVIDIA H200` or `CPU with 16 cores`."""
    if not devices[0].startswith("cuda"):
        return f"CPU with {os.cpu_count()} cores" if devices[0] == "cpu" else devices[0]
    name = torch.cuda.get_device_name(devices[0])
    return name if len(devices) == 1 else f"{len(devices)} × {name}"


def software_versions() -> dict[str, str]:
    """The versions of what computes a forward pass and its reduction, by package."""
    packages = {name: version(name) for name in ("torch", "transformers", "polars")}
    return {"gluscope": gluscope_assets.__version__, "python": platform.python_version(), **packages}


# Workers


@dataclass(frozen=True)
class Worker:
    """One process: the device it computes on and the threads it does so with."""

    device: str
    threads: int


def plan_workers(devices: Sequence[str], units: int, processes: int | None = None) -> list[Worker]:
    """The processes for so many shards. No more threads than cores compute at a time."""
    if units == 0:
        return []
    cores = len(os.sched_getaffinity(0))
    if list(devices) != ["cpu"]:
        started = min(len(devices), units)
        # Beside the thread that forwards, so that another shard can be written meanwhile.
        return [Worker(device, max(1, cores // started) + 1) for device in devices[:started]]
    wanted = processes if processes is not None else max(1, cores // THREADS_A_PROCESS)
    started = min(wanted, units)
    return [Worker("cpu", max(1, cores // started)) for _ in range(started)]


def _run_processes(collection: Collection, workers: Sequence[Worker], count_tokens: TokenCounter) -> None:
    """Run a process for each worker until all shards are finished."""
    # A server that has imported everything forks the processes: no start costs seconds, none inherits a thread.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    messages: Any = context.Queue()
    text = collection.model_dump_json()
    running = [
        context.Process(target=_worker_main, args=(text, worker, os.getpid(), messages), daemon=True) for worker in workers
    ]
    for process in running:
        process.start()
    try:
        while any(process.is_alive() for process in running) or not messages.empty():
            try:
                message = messages.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if isinstance(message, int):
                count_tokens(message)
            elif isinstance(message, InputError):
                raise message
            else:
                raise RuntimeError(f"a collecting process failed:\n{message}")
        # What a killed process left undone, the others have taken over.
        job = Job(collection, workers[0].device)
        if any(job.unfinished_layers(shard) for shard in range(job.corpus.n_shards)):
            codes = ", ".join(str(process.exitcode) for process in running)
            raise InputError(f"All collecting processes ended early (exit codes {codes}); run gluscope build again to go on.")
    finally:
        for process in running:
            process.terminate()
            process.join()


def _worker_main(text: str, worker: Worker, parent: int, messages: Any) -> None:
    """What a process of its own does."""

    def count_tokens(tokens: int) -> None:
        # Nobody waits for the work of a killed run, and it holds a device.
        if not _is_alive(parent):
            os._exit(1)
        messages.put(tokens)

    try:
        Job(Collection.model_validate_json(text), worker.device, worker.threads).run(count_tokens)
    except InputError as error:
        messages.put(error)
    except BaseException:
        messages.put(traceback.format_exc())
        raise


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


class Job:
    """A collection on one device of this machine. Model and corpus are read when first needed."""

    def __init__(self, collection: Collection, device: str, threads: int = 1) -> None:
        self.collection, self.device, self.threads = collection, device, threads

    @cached_property
    def corpus(self) -> TokenizedCorpus:
        return TokenizedCorpus.open(self.collection.corpus)

    @cached_property
    def sample(self) -> Sample:
        return choose_sample(self.corpus, self.collection.options)

    @cached_property
    def shape(self) -> ModelShape:
        return check_checkpoint(self.collection.checkpoint, self.collection.model_layers, self.collection.stack)

    @cached_property
    def model(self) -> Any:
        collection = self.collection
        return load_model(collection.checkpoint, collection.dtype, self.device, collection.device_map)

    def _device_of(self, mlp: GatedMLP) -> str:
        """Where the weights of an MLP lie."""
        return str(self.model.get_parameter(mlp.gate.parameter).device)

    @cached_property
    def mlps(self) -> list[GatedMLP]:
        return list(self.shape.mlps)

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
    ) -> "list[Future[None]]":
        """One unit of work: forward the packs of a shard, and begin to write it for some layers."""
        collection, corpus = self.collection, self.corpus
        mlps = [mlp for mlp in self.mlps if mlp.layer in set(layers)]
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


@contextmanager
def one_thread_each(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that each compute alone: packs beside each other keep cores busier than one operation shared by them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def wait_for_all(futures: Sequence[Any]) -> None:
    """Wait for all, then raise what the first that failed by itself raised."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Abandoned)):
        raise error


class Abandoned(Exception):
    """Another thread failed, so that this one's turn will never come."""


class Turns:
    """Lets threads do something for each block in the order of the batches' numbers, whoever forwards which batch."""

    def __init__(self, blocks: Iterable[str]) -> None:
        self.next = dict.fromkeys(blocks, 0)
        self.changed = Condition()
        self.failed = False

    @contextmanager
    def turn(self, block: str, number: int, ends: bool = True) -> Iterator[None]:
        """Wait until all batches before `number` have had their turn at `block`; the batch's turn goes on unless it `ends`."""
        with self.changed:
            self.changed.wait_for(lambda: self.next[block] == number or self.failed)
            if self.failed:
                raise Abandoned
        yield
        if ends:
            with self.changed:
                self.next[block] += 1
                self.changed.notify_all()

    @contextmanager
    def abandoned_on_error(self) -> Iterator[None]:
        """Tell the other threads if this one fails."""
        try:
            yield
        except BaseException:
            with self.changed:
                self.failed = True
                self.changed.notify_all()
            raise


class ShardState:
    """One shard in the making: the running aggregate of each gated MLP of the wanted layers."""

    def __init__(
        self,
        corpus: TokenizedCorpus,
        texts: npt.NDArray[np.integer],
        mlps: Sequence[GatedMLP],
        options: CollectionOptions,
        sample: Sample,
        device: str,
        device_of: Callable[[GatedMLP], str] | None = None,
    ) -> None:
        self.corpus, self.options, self.sample = corpus, options, sample
        on_host = windows_on_host(mlps, options, device)
        places = sample.of_texts(texts)
        self.sampled = places[np.argsort(sample.hash[places])]
        """The shard's sampled positions, as indices of the sample, in the order of their hashes."""
        self.states = {
            mlp: LayerState(mlp, options, device_of(mlp) if device_of else device, on_host, len(self.sampled)) for mlp in mlps
        }
        self.layers: dict[int, list[GatedMLP]] = {}
        for mlp in mlps:
            self.layers.setdefault(mlp.layer, []).append(mlp)
        inside = np.repeat(np.isin(np.arange(corpus.n_texts), texts), np.diff(corpus.offsets))
        self.positions = int((inside if options.count_special_tokens else inside & ~corpus.special).sum())
        """Counted positions of the shard."""
        self.turns = Turns(mlp.block for mlp in mlps)
        self.begun = 0
        """Batches that have been folded in or will be."""
        self.halved = 0
        """Batches and halves of batches that did not fit into memory."""

    def fold(
        self,
        forward: Forward,
        packs: Sequence[range],
        pool: ThreadPoolExecutor,
        threads: int,
        count_tokens: TokenCounter = lambda tokens: None,
    ) -> None:
        """Forward packs, each in one of the pool's threads, and fold them in in their order."""
        special, lock = self.options.count_special_tokens, Lock()
        batches = (batch for pack in packs for batch in forward.batches(self.corpus, pack, special))

        def fold_batches() -> None:
            with self.turns.abandoned_on_error():
                while True:
                    with lock:
                        batch = next(batches, None)
                        if batch is None:
                            return
                        number, self.begun = self.begun, self.begun + 1
                    self._forward(forward, batch, number, set())
                    with lock:
                        count_tokens(len(batch.token))

        wait_for_all([pool.submit(fold_batches) for _ in range(threads)])

    def _forward(self, forward: Forward, batch: Batch, number: int, folded: set[str], ends: bool = True) -> None:
        """Forward a batch, or a part of one (its last if it `ends`), and fold it in; in halves where memory runs out.

        Blocks in `folded` have taken it before. OutOfMemory if a text alone does not fit.
        """
        try:
            forward.run(batch, self._receiver(number, batch, folded, ends))
            return
        except torch.OutOfMemoryError as error:
            if len(batch.text) == 1:
                raise OutOfMemory(
                    f"There is no memory for the forward pass of a text of {len(batch.token)} tokens; make corpus.text_tokens "
                    "smaller or free some memory."
                ) from error
        # Not in the handler, whose traceback holds what is to be freed.
        logger.warning("Out of memory: %s tokens are forwarded in two halves.", f"{len(batch.token):,}")
        self.halved += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        first, second = batch.halves()
        self._forward(forward, first, number, set(folded), ends=False)
        self._forward(forward, second, number, set(folded), ends)

    def _receiver(self, number: int, batch: Batch, folded: set[str], ends: bool) -> Receiver:
        """What takes the activations of a batch, block by block, and adds the block to `folded`."""
        places = self.sample.of_texts(batch.text)
        text = np.searchsorted(batch.text, self.sample.text[places])
        tokens = batch.offsets[text] + self.sample.position[places]
        rows = np.searchsorted(self.sample.hash[self.sampled], self.sample.hash[places])

        def receive(block: str, found: list[tuple[GatedMLP, Activations]]) -> None:
            if block in folded:
                return
            with self.turns.turn(block, number, ends):
                for mlp, activations in found:
                    reduce(mlp, activations)
            folded.add(block)

        def reduce(mlp: GatedMLP, activations: Activations) -> None:
            state = self.states[mlp]
            try:
                if activations.tokens is None:
                    state.reduce(activations, batch, torch.from_numpy(tokens), torch.from_numpy(rows))
                elif len(activations.tokens):
                    routed = activations.tokens.cpu().numpy()
                    place = np.searchsorted(routed, tokens).clip(max=len(routed) - 1)
                    here = routed[place] == tokens
                    part = batch.routed(routed)
                    state.reduce(activations, part, torch.from_numpy(place[here]), torch.from_numpy(rows[here]))
            except torch.OutOfMemoryError as error:
                # Half a reduction cannot be taken back: this batch must not be forwarded again.
                raise OutOfMemory(
                    f"There is no memory left to reduce layer {mlp.layer}; free some or make corpus.pack_tokens smaller."
                ) from error

        return receive

    def activation_of(self, layer: int) -> str:
        """The name of a layer's σ. InputError if its MLPs have several."""
        names = {mlp.activation for mlp in self.layers[layer]}
        if len(names) > 1:
            raise InputError(f"Layer {layer} has the activation functions {', '.join(sorted(names))}; it may have only one.")
        return names.pop()

    def aggregate(self, layer: int) -> Aggregate:
        """The finished aggregate of one layer, its MLPs one after the other."""
        return concatenate([self._aggregate(mlp) for mlp in self.layers[layer]])

    def _aggregate(self, mlp: GatedMLP) -> Aggregate:
        state = self.states[mlp]
        entries = (len(LISTS), mlp.width, self.options.examples)
        text = state.text.cpu().numpy().reshape(entries)
        position = state.position.cpu().numpy().reshape(entries)
        slot = state.slot.cpu()[..., None]
        window_token = self._window_tokens(text, position)

        def windows(stored: torch.Tensor) -> npt.NDArray[np.floating]:
            stored = stored.cpu()
            cells: npt.NDArray[np.floating] = stored.gather(1, slot.expand(stored.shape)).numpy().reshape(*entries, -1)
            if mlp.expert is not None:
                cells[window_token == NO_TOKEN] = 0
            return cells

        places = self.sampled
        sample_text, sample_position = self.sample.text[places], self.sample.position[places]
        return Aggregate(
            layer=mlp.layer,
            positions=self.positions,
            mlp=np.full(mlp.width, mlp.name),
            expert=np.full(mlp.width, NO_EXPERT if mlp.expert is None else mlp.expert, dtype=np.int32),
            index=np.arange(mlp.width, dtype=np.int32),
            routed=np.full(mlp.width, state.positions, dtype=np.int64),
            zero=(state.positions - state.count.sum(dim=0)).cpu().numpy(),
            count=state.count.cpu().numpy(),
            sum=state.sum.cpu().numpy(),
            sum_of_squares=state.sum_of_squares.cpu().numpy(),
            largest=state.largest.clamp(min=0).cpu().numpy(),
            value=state.value.cpu().numpy().reshape(entries),
            post=state.post.cpu().numpy().reshape(entries),
            text=text,
            position=position,
            window_token=window_token,
            window_gate=windows(state.windows[0]),
            window_in=windows(state.windows[1]),
            window_before=self.options.window_before,
            sample_hash=self.sample.hash[places],
            sample_text=sample_text,
            sample_position=sample_position,
            sample_token=self.corpus.token[self.corpus.offsets[sample_text] + sample_position],
            sample_gate=state.sample[0].numpy(),
            sample_in=state.sample[1].numpy(),
            sample_positions=self.options.sample_positions,
        )

    def _window_tokens(self, text: npt.NDArray[np.int32], position: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        cell = position[..., None] + np.arange(-self.options.window_before, self.options.window_after + 1)
        first = self.corpus.offsets[text.clip(0)]
        length = self.corpus.offsets[text.clip(0) + 1] - first
        within = (cell >= 0) & (cell < length[..., None]) & (text >= 0)[..., None]
        token = self.corpus.token[np.where(within, first[..., None] + cell, 0)]
        return np.where(within, token, NO_TOKEN).astype(np.int32)


def windows_on_host(mlps: Sequence[GatedMLP], options: CollectionOptions, device: str) -> bool:
    """Whether the windows of all layers would take too much of a GPU's memory."""
    if device == "cpu":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return sum(LayerState.bytes_of(mlp.width, options)[1] for mlp in mlps) > DEVICE_SHARE * free
