"""What collecting everything costs over the bare forward pass of the same model over the same tokens.

Run by `make bench`. For each model shape it first collects some 2,000 texts, so that the lists of examples are in their
steady state. Then it times, interleaved in one process and each over the same further packs: the bare forward in packs,
the bare forward as Hugging Face batches best (texts of similar lengths, padded, no head), the collection of everything,
and the collection with the plain reduction. It prints medians, ratios, the cost of the first texts and of writing, bytes a
neuron, and peak memory at 1x, 2x and 4x the corpus, as Markdown tables.
"""

import argparse
import copy
import gc
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import LlamaConfig, LlamaModel

from gluscope_assets.core.collect import kernel, shards
from gluscope_assets.core.collect.forward import Batch, Forward
from gluscope_assets.core.collect.reduction import LayerState, compiled_text_statistics, text_statistics
from gluscope_assets.core.collect.shard_state import ShardState
from gluscope_assets.core.collect.workers import one_thread_each, plan_workers, wait_for_all
from gluscope_assets.core.corpus.sample import choose_sample
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.corpus.tokenize import cut_into_packs, tokenize_corpus
from gluscope_assets.core.model.anatomy import look_through
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.core.model.gated_mlp import Activations
from gluscope_assets.core.model.loading import load_model
from gluscope_assets.core.options import CheckpointOptions, CollectionOptions, CorpusOptions
from gluscope_assets.core.paths import AGGREGATE_FILES
from gluscope_assets_tests.support.reference import mlp_of

DATA = Path(os.environ.get("GLUSCOPE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
RUNS = 5
PADDED_TEXTS = (16, 64)
"""Texts a batch that the padded forward is tried with; the faster counts."""


@dataclass(frozen=True)
class Shape:
    """A model to measure, and how much text."""

    name: str
    config: dict[str, Any] | None
    """None: the real model."""
    tokens: int
    dtype: str = "float32"
    pack_tokens: int = 4096
    packs_a_run: int = 4


def llama(hidden: int, width: int, layers: int, heads: int, groups: int | None = None) -> dict[str, Any]:
    """A Llama's configuration."""
    return {
        "vocab_size": 8192, "hidden_size": hidden, "intermediate_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": groups or heads, "max_position_embeddings": 2048,
    }  # fmt: skip


CPU_SHAPES = (
    Shape("real model, d = 64", None, 482_591, packs_a_run=8),
    Shape("random, d = 288", llama(288, 768, 6, 6), 480_000),
    Shape("random, d = 1024", llama(1024, 2816, 1, 16), 480_000),
)
GPU_SHAPES = (Shape("random, d = 4096 (8B)", llama(4096, 14336, 32, 32, 8), 2_000_000, "bfloat16", 16_384),)


LITTLE = (Shape("little", llama(64, 128, 2, 2), 8_000, pack_tokens=512, packs_a_run=1),)
"""Whether it runs, not what it costs."""


def random_corpus(tokens: int, vocabulary: int, pack_tokens: int, seed: int = 0) -> TokenizedCorpus:
    """Texts of 4 to 256 random tokens, most of them full, as documents cut to 256 give."""
    generator = np.random.default_rng(seed)
    lengths: list[int] = []
    while sum(lengths) < tokens:
        lengths.append(256 if generator.random() < 0.8 else int(generator.integers(4, 256)))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    token = generator.integers(1, vocabulary, offsets[-1], dtype=np.int32)
    token[offsets[:-1]] = 0
    packs = cut_into_packs(np.array(lengths), pack_tokens)
    return TokenizedCorpus(
        path=Path("random"), token=token, offsets=offsets, packs=packs, shards=np.zeros_like(packs),
        starts=np.zeros(len(lengths), np.int64), documents=pa.chunked_array([pa.array(["random"] * len(lengths))]),
        special_token_ids=(0,), content_hash="random",
    )  # fmt: skip


def repeated(corpus: TokenizedCorpus, times: int, pack_tokens: int) -> TokenizedCorpus:
    """The corpus several times over, in one shard."""
    lengths = np.tile(np.diff(corpus.offsets), times)
    packs = cut_into_packs(lengths, pack_tokens)
    return replace(
        corpus, token=np.tile(corpus.token, times), offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        packs=packs, shards=np.zeros_like(packs), starts=np.zeros(len(lengths), np.int64),
        documents=pa.chunked_array([pa.array(["text"] * len(lengths))]),
    )  # fmt: skip


class Subject:
    """A model and a corpus on a device, with everything that is timed. Each run takes some packs of the corpus."""

    def __init__(self, shape: Shape, device: str, folder: Path, threads: int, times: int = 1) -> None:
        self.shape, self.device, self.folder, self.threads = shape, device, folder, threads
        if shape.config is None:
            checkpoint = resolve_checkpoint(CheckpointOptions(name="stories260k", path=DATA / "stories260K"))
            source = CorpusOptions(source="tokens", path=DATA / "oracle" / "texts.parquet")
            corpus = tokenize_corpus(source, checkpoint, folder / "texts.parquet", {})
            self.model: Any = load_model(checkpoint, shape.dtype, device)
        else:
            torch.manual_seed(0)
            with torch.device(device):
                self.model = LlamaModel(LlamaConfig(**shape.config)).to(getattr(torch, shape.dtype)).eval()
            corpus = random_corpus(shape.tokens, shape.config["vocab_size"], shape.pack_tokens)
        self.corpus = repeated(corpus, times, shape.pack_tokens)
        self.packs = self.corpus.packs_of_shard(0)
        self.mlps = look_through(self.model).mlps

    def tokens_of(self, packs: Sequence[npt.NDArray[np.integer]]) -> int:
        """The tokens of some packs."""
        return int(np.diff(self.corpus.offsets)[np.concatenate(packs)].sum())

    def new_state(self) -> ShardState:
        """Nothing collected yet."""
        options = CollectionOptions()
        sample = choose_sample(self.corpus, options)
        return ShardState(self.corpus, np.arange(self.corpus.n_texts), self.mlps, options, sample, self.device)

    def copied(self, state: ShardState) -> ShardState:
        """A state that goes on by itself from where another stands."""
        copied = self.new_state()
        copied.states = copy.deepcopy(state.states, {id(mlp): mlp for mlp in self.mlps})
        copied.begun, copied.turns.next = state.begun, dict(state.turns.next)
        return copied

    def packed(self, packs: Sequence[npt.NDArray[np.integer]]) -> None:
        """The bare forward in packs, by as many threads as the collection has."""
        with one_thread_each(self.threads) as pool, Forward(self.model, self.mlps) as forward:
            # Nothing is watched and the model runs to its end.
            forward.taps.close()
            batches = (batch for pack in packs for batch in forward.batches(self.corpus, pack, False))
            self._run(pool, batches, lambda batch: forward.run(batch, lambda block, found: None))

    def padded(self, packs: Sequence[npt.NDArray[np.integer]], texts_at_once: int, shared: bool) -> None:
        """The bare forward of the base model over padded batches of similar lengths.

        `shared`: one batch at a time, whose operations all threads share; else a batch for each thread.
        """
        text = np.concatenate(packs)
        order = text[np.argsort(np.diff(self.corpus.offsets)[text], kind="stable")]
        groups = [np.sort(order[first : first + texts_at_once]) for first in range(0, len(order), texts_at_once)]

        def run(batch: Batch) -> None:
            real = torch.from_numpy(np.arange(batch.length.max()) < batch.length[:, None]).to(self.device)
            token = torch.zeros(real.shape, dtype=torch.int64, device=self.device)
            token[real] = torch.from_numpy(batch.token).to(self.device)
            with torch.inference_mode():
                self.model(input_ids=token, attention_mask=real.long(), use_cache=False)

        batches = (Batch.of(self.corpus, group, False) for group in groups)
        if shared:
            for batch in batches:
                run(batch)
            self._synchronize()
        else:
            with one_thread_each(self.threads) as pool:
                self._run(pool, batches, run)

    def collected(self, packs: Sequence[npt.NDArray[np.integer]], state: ShardState) -> None:
        """Everything collected into a state."""
        with one_thread_each(self.threads) as pool, Forward(self.model, self.mlps) as forward:
            state.fold(forward, packs, pool, self.threads)
        self._synchronize()

    def plainly(self, packs: Sequence[npt.NDArray[np.integer]], state: ShardState) -> None:
        """The same with the plain reduction."""
        load = kernel.load
        kernel.load = lambda: None  # type: ignore[assignment]
        try:
            self.collected(packs, state)
        finally:
            kernel.load = load

    def write(self, state: ShardState) -> dict[str, float]:
        """Write the shards; bytes of each table a neuron."""
        footer = {"fingerprint": "benchmark", "computed_on": "benchmark"}
        for layer in state.layers:
            shards.write_shard(state.aggregate(layer), self.folder / "shards", 0, self.corpus.n_tokens, footer)
        neurons = sum(mlp.width for mlp in self.mlps)
        paths = list(self.folder.rglob("shards/*/*/*.parquet"))
        sizes = {Path(name).stem: sum(path.stat().st_size for path in paths if path.name == name) for name in AGGREGATE_FILES}
        sizes["windows"] = sum(window_bytes(path) for path in paths if path.stem == "examples")
        return {name: size / neurons for name, size in sizes.items()}

    def _run(self, pool: ThreadPoolExecutor, batches: Iterator[Batch], work: Callable[[Batch], None]) -> None:
        lock = Lock()

        def run() -> None:
            while True:
                with lock:
                    batch = next(batches, None)
                if batch is None:
                    return
                work(batch)

        wait_for_all([pool.submit(run) for _ in range(self.threads)])
        self._synchronize()

    def _synchronize(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


def window_bytes(examples: Path) -> int:
    """Bytes of gate and in of all windows of a table of examples."""
    metadata = pq.ParquetFile(examples).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(place) for group in groups for place in range(metadata.num_columns)]
    ends = (".gate.list.element", ".in.list.element")
    return sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema.endswith(ends))


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    gc.collect()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(shape: Shape, device: str, threads: int, plain: bool) -> tuple[list[str], list[str]]:
    """The rows of one shape: rates and ratios in the steady state, and the whole corpus with its files."""
    with tempfile.TemporaryDirectory() as name:
        subject = Subject(shape, device, Path(name), threads)
        runs = [subject.packs[-shape.packs_a_run * (run + 1) :][: shape.packs_a_run] for run in range(RUNS)]
        first = subject.packs[: -shape.packs_a_run * RUNS]
        state = subject.new_state()
        filling = seconds(lambda: subject.collected(first, state))
        rivals = [(texts, shared) for texts in PADDED_TEXTS for shared in ((True, False) if threads > 1 else (True,))]
        best = min(rivals, key=lambda rival: min(seconds(lambda: subject.padded(runs[0], *rival)) for _ in range(2)))
        plain_state = subject.copied(state)
        times: dict[str, list[float]] = {}
        for packs in reversed(runs):
            work = {
                "packed": lambda packs=packs: subject.packed(packs),
                "padded": lambda packs=packs: subject.padded(packs, *best),
                "collected": lambda packs=packs: subject.collected(packs, state),
                **({"plain": lambda packs=packs: subject.plainly(packs, plain_state)} if plain else {}),
            }
            for formulation, run in work.items():
                times.setdefault(formulation, []).append(seconds(run) / subject.tokens_of(packs))
        sizes: dict[str, float] = {}
        writing = seconds(lambda: sizes.update(subject.write(state)))
        bare = [min(a, b) for a, b in zip(times["packed"], times["padded"], strict=True)]
        ratios = [together / alone for together, alone in zip(times["collected"], bare, strict=True)]
        tokens, alone = subject.tokens_of(first), statistics.median(bare)
        whole = (filling + writing) / (alone * tokens)
    rate = {formulation: f"{1 / statistics.median(cost):,.0f}" for formulation, cost in times.items()}
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
    steady = [shape.name, rate["packed"], rate["padded"], rate["collected"], rate.get("plain", "–"), ratio]
    return steady, [
        shape.name, f"{tokens:,}", f"{filling:.1f}", f"{writing:.1f}", f"{whole:.2f}",
        *(f"{sizes[table] / 1e3:.1f}" for table in ("statistics", "windows", "examples", "sample")),
    ]  # fmt: skip


def reductions(neurons: int = 768, texts: int = 16, length: int = 256) -> list[list[str]]:
    """ns a neuron and token, one thread, of each way to reduce a batch whose texts enter no list."""
    gate, in_ = torch.randn(2, texts * length, neurons).unbind()
    act = torch.nn.functional.silu(gate)
    state = LayerState(mlp_of(neurons), CollectionOptions(), "cpu")
    state.value.fill_(1e30)
    state.text.fill_(0)
    tokens = texts * length
    batch = Batch.whole(np.arange(1, texts + 1), np.full(texts, length), np.zeros(tokens, np.int64), np.ones(tokens, bool))
    none = torch.zeros(0, dtype=torch.int64)
    activations = Activations(gate, in_, act, act * in_)
    padded = [part.view(texts, length, neurons) for part in (gate, in_, act, act * in_)]
    counted = torch.ones(texts, length)
    work: dict[str, Callable[[], object]] = {
        "C kernel, lists included": lambda: state.reduce(activations, batch, none, none),
        "torch.compile, statistics alone": lambda: compiled_text_statistics()(*padded, counted),
        "plain torch, statistics alone": lambda: text_statistics(*padded, counted),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    with one_thread_each(1):
        for run in range(RUNS + 1):
            for name, once in work.items():
                took = seconds(once)
                if run:
                    times[name].append(took)
    return [[name, f"{statistics.median(runs) / (tokens * neurons) * 1e9:.1f}"] for name, runs in times.items()]


def peak_memory(shape: Shape, device: str, threads: int, times: int) -> float:
    """Peak MB of a process that collects the corpus so many times over: of the device, or of the process on a CPU."""
    module, quick = "gluscope_assets_tests.benchmarks.collection", ["--quick"] if shape in LITTLE else []
    command = [sys.executable, "-m", module, "--memory", shape.name, "--times", str(times), "--device", device, *quick]
    output = subprocess.run([*command, "--threads", str(threads)], check=True, capture_output=True, text=True).stdout
    return float(output.splitlines()[-1])


def print_peak_memory(shape: Shape, device: str, threads: int, times: int) -> None:
    """What `peak_memory` reads."""
    with tempfile.TemporaryDirectory() as name:
        subject = Subject(replace(shape, tokens=shape.tokens // 8), device, Path(name), threads, times)
        state = subject.new_state()
        subject.collected(subject.packs, state)
        subject.write(state)
    if device != "cpu":
        print(torch.cuda.max_memory_allocated() / 1e6)
    else:
        # Not getrusage: its maximum begins with that of the process that started this one.
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(int(peak.split()[1]) * 1024 / 1e6)


def machine(device: str, threads: int) -> str:
    """One line about where this runs."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    gpu = f", {torch.cuda.get_device_name()}" if device != "cpu" else ""
    reduction = "C kernel" if kernel.load() is not None else "no C compiler"
    capability = torch.backends.cpu.get_cpu_capability()
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores{gpu}; torch {torch.__version__}, {capability}, {reduction}, {threads} threads"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--shape", action="append", help="only shapes whose name holds this")
    parser.add_argument("--no-plain", action="store_true", help="leave out the slow plain reduction")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--quick", action="store_true", help="a little model and text: whether it runs, not what it costs")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--times", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = str(options.device)
    threads = options.threads or (plan_workers(["cpu"], 1)[0].threads if device == "cpu" else 1)
    shapes = LITTLE if options.quick else CPU_SHAPES if device == "cpu" else GPU_SHAPES
    if options.memory:
        print_peak_memory(next(shape for shape in shapes if shape.name == options.memory), device, threads, options.times)
        return
    chosen = [shape for shape in shapes if not options.shape or any(part in shape.name for part in options.shape)]
    if not DATA.exists():
        print(f"The real model is not at {DATA}: it is left out.", file=sys.stderr)
        chosen = [shape for shape in chosen if shape.config is not None]
    print(f"{machine(device, threads)}; medians of {RUNS} interleaved runs, tokens/s\n")
    # What is there to stay need not be looked through again by each collection of garbage.
    gc.freeze()
    rows = [measure(shape, device, threads, not options.no_plain) for shape in chosen]
    head = ["model", "bare, packed", "bare, padded", "collected", "plain torch", "collected / bare"]
    print(table(head, [steady for steady, _ in rows]) + "\n")
    head = ["first tokens", "seconds", "writing", "all / bare", "KB statistics", "KB windows", "KB examples", "KB sample"]
    print(table(["model", *head], [whole for _, whole in rows]))
    if device == "cpu" and not options.quick:
        print("\n" + table(["reduction, one thread", "ns a neuron and token"], reductions()))
    if not options.no_memory:
        peaks = [(shape.name, [peak_memory(shape, device, threads, times) for times in (1, 2, 4)]) for shape in chosen]
        cells = [[name, *(f"{peak:,.0f}" for peak in peak_mb), f"{peak_mb[2] / peak_mb[0]:.3f}"] for name, peak_mb in peaks]
        print("\n" + table(["peak MB", "1×", "2×", "4×", "4× / 1×"], cells))


if __name__ == "__main__":
    main()
