"""The forward pass and its reduction: one pass over the corpus gives each layer's activation shards.

For every pack each tapped layer is reduced at once to counts, sums, extremes, example lists with their windows and the
position sample; nothing of size tokens x neurons outlives its layer's forward. The merge and the files belong to
`aggregate`, the order of examples to `ranking`. Plain torch: the same code runs on every device.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gluscope_assets.core.aggregate import NO_TOKEN, Aggregate, shard_folder, write_aggregate
from gluscope_assets.core.checkpoint import Checkpoint, check_checkpoint, load_model
from gluscope_assets.core.corpus import TokenizedCorpus
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.gated_mlp import GatedMLP, find_gated_mlps, run_taps
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets.core.progress import Progress, no_progress
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS
from gluscope_assets.core.ranking import ACT_LISTS, NO_TEXT, best

CELLS_AT_ONCE = 1 << 18
"""Positions x neurons reduced together: what a core's cache holds of one tensor. Part of the canonical order of work."""

ROW_CELLS_AT_ONCE = 1 << 22
"""Rows x positions searched together for the peaks of new examples."""


HALF_OVERFLOWS = 65520.0
"""The smallest magnitude that rounds to infinity in float16."""


@dataclass
class CollectionReport:
    """What one collection did."""

    tokens: int = 0
    counted: int = 0
    texts: int = 0
    seconds: float = 0.0
    shards: int = 0
    bytes: dict[int, int] = field(default_factory=dict)
    """Bytes of the shards of each layer."""
    frequency: dict[int, list[float]] = field(default_factory=dict)
    """Share of counted positions in each quadrant, over the neurons of each layer."""


def collect(
    checkpoint: Checkpoint,
    dtype: str,
    corpus: TokenizedCorpus,
    layers: Sequence[int],
    model_layers: int,
    options: CollectionOptions,
    destination: Callable[[int], Path],
    provenance: Mapping[str, object],
    device: str,
    progress: Progress = no_progress,
) -> CollectionReport:
    """Forward the corpus once through the checkpoint and write the shards of `layers`.

    `destination(layer)` is the folder of a layer's `shard-0000`, `shard-0001`, ...; `model_layers` is checked against
    the model. Progress counts tokens. InputError if model, tokenizer or corpus do not fit each other.
    """
    shape = check_checkpoint(checkpoint, model_layers)
    if corpus.token.max() >= shape.vocabulary:
        raise InputError(
            f"{corpus.path} holds token {corpus.token.max()} and checkpoint {checkpoint.name} has a vocabulary of only "
            f"{shape.vocabulary}; tokenize the corpus with the model's own tokenizer."
        )
    model = load_model(checkpoint, dtype, device)
    wanted = [mlp for mlp in find_gated_mlps(model) if mlp.layer in set(layers)]
    sample = choose_sample(corpus, options)
    report = CollectionReport(texts=corpus.n_texts, shards=corpus.n_shards)
    counts = {mlp.layer: np.zeros(len(QUADRANTS), dtype=np.int64) for mlp in wanted}
    began = time.monotonic()
    with LayerWorkers(device) as workers:
        for shard in range(corpus.n_shards):
            collection = ShardCollection(corpus, wanted, options, sample, device, workers)
            for pack in corpus.packs_of_shard(shard):
                collection.forward(model, pack)
                report.tokens += int(corpus.offsets[pack.stop] - corpus.offsets[pack.start])
                progress(report.tokens, corpus.n_tokens)
            footer = {
                **provenance,
                "activation": shape.activation,
                "dtype": dtype,
                "content_hash": corpus.content_hash,
                "shards": corpus.n_shards,
                "shard": shard,
            }
            for mlp in wanted:
                workers.submit(collection.write, mlp, shard_folder(destination(mlp.layer), shard), footer)
            workers.wait()
            report.counted += collection.positions
            for mlp in wanted:
                counts[mlp.layer] += collection.states[mlp.layer].count.sum(dim=1).cpu().numpy()
    for mlp in wanted:
        _remove_other_shards(destination(mlp.layer), corpus.n_shards)
    report.seconds = time.monotonic() - began
    for mlp in wanted:
        report.bytes[mlp.layer] = sum(path.stat().st_size for path in destination(mlp.layer).rglob("*.parquet"))
        report.frequency[mlp.layer] = [float(share) for share in counts[mlp.layer] / (report.counted * mlp.width or 1)]
    return report


class LayerWorkers:
    """Threads that reduce and write layers while the forward pass goes on. With a GPU, or one core, all runs in line.

    Each thread, that of the forward pass too, computes alone: small operations gain nothing from sharing. No more jobs
    than threads wait or run, so that only so many layers' activations are held.
    """

    def __init__(self, device: str) -> None:
        self.threads = torch.get_num_threads() if device == "cpu" else 1
        self.pool: ThreadPoolExecutor | None = None
        self.free = BoundedSemaphore(self.threads)
        self.jobs: list[Future[None]] = []

    def __enter__(self) -> "LayerWorkers":
        if self.threads > 1:
            self.pool = ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))
            torch.set_num_threads(1)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self.threads)

    def submit(self, job: Callable[..., None], *arguments: object) -> None:
        """Run `job` on `arguments`, at once or in a thread; waits while all threads are taken."""
        if self.pool is None:
            job(*arguments)
            return
        self.free.acquire()
        self.jobs.append(self.pool.submit(self._run, job, *arguments))

    def _run(self, job: Callable[..., None], *arguments: object) -> None:
        try:
            # Inference mode belongs to a thread.
            with torch.inference_mode():
                job(*arguments)
        finally:
            self.free.release()

    def wait(self) -> None:
        """Wait for all jobs, and raise what one of them raised."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job.result()


def _remove_other_shards(layer_folder: Path, shards: int) -> None:
    """Remove what an earlier collection with more shards left."""
    current = {shard_folder(layer_folder, shard) for shard in range(shards)}
    for folder in set(layer_folder.iterdir()) - current:
        shutil.rmtree(folder)


# The position sample


@dataclass(frozen=True)
class Sample:
    """The sampled positions of a corpus, by text: the same for every layer and neuron."""

    hash: npt.NDArray[np.uint64]
    text: npt.NDArray[np.int32]
    """Not decreasing."""
    position: npt.NDArray[np.int32]

    def of_texts(self, texts: range) -> slice:
        """The sampled positions in `texts`."""
        first, last = np.searchsorted(self.text, [texts.start, texts.stop])
        return slice(int(first), int(last))


def position_hash(text: npt.NDArray[np.integer], position: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    """A hash of (text, position) without collisions: SplitMix64's finalizer over the two packed into 64 bits."""
    with np.errstate(over="ignore"):
        z = (text.astype(np.uint64) << np.uint64(32)) | position.astype(np.uint64)
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def choose_sample(corpus: TokenizedCorpus, options: CollectionOptions) -> Sample:
    """The counted positions with the smallest hashes, at most `options.sample_positions`."""
    text = np.repeat(np.arange(corpus.n_texts, dtype=np.int32), np.diff(corpus.offsets))
    position = (np.arange(corpus.n_tokens) - np.repeat(corpus.offsets[:-1], np.diff(corpus.offsets))).astype(np.int32)
    if not options.count_special_tokens:
        text, position = text[~corpus.special], position[~corpus.special]
    hashed = position_hash(text, position)
    chosen = np.sort(np.argsort(hashed)[: options.sample_positions])
    return Sample(hashed[chosen], text[chosen], position[chosen])


# The reduction


def narrow(values: Tensor) -> tuple[Tensor, bool]:
    """Round each value to the nearest float16; a non-zero never becomes 0 and what does not fit stays float32.

    Gives float16 and True if all fit, else float32 and False.
    """
    size = values.abs()
    smallest = torch.finfo(torch.float16).smallest_normal * 2.0**-10
    half = (values.sign() * size.clamp(min=smallest)).to(torch.float16)
    if values.numel() == 0 or float(size.max()) < HALF_OVERFLOWS:
        return half, True
    return torch.where(size < HALF_OVERFLOWS, half.float(), values.float()), False


def put_quadrant_weights(gate: Tensor, in_: Tensor, counted: Tensor, inside: list[Tensor]) -> None:
    """Put into `inside`, for each of QUADRANTS, 1.0 at its counted positions and 0.0 elsewhere.

    gate, in_ and each of `inside` are [texts, neurons, positions], counted [texts, positions]. Floats, not booleans,
    because plain arithmetic is vectorised on every device where masked fills are not.
    """
    gate_signs, in_signs = _sign_weights(gate), _sign_weights(in_)
    in_signs = {name: sign * counted[:, None] for name, sign in in_signs.items()}
    for quadrant, weight in zip(QUADRANTS, inside, strict=True):
        # The signs' places in a name such as gate+_in-.
        torch.mul(gate_signs[quadrant[4]], in_signs[quadrant[8]], out=weight)


def _sign_weights(values: Tensor) -> dict[str, Tensor]:
    sign = values.sign()
    positive = sign.clamp(min=0) + 0.0  # -0.0 + 0.0 is 0.0: no weight is a negative zero
    return {"+": positive, "-": positive - sign}


def put_statistics(
    activations: list[Tensor],
    inside: list[Tensor],
    count: Tensor,
    sums: Tensor,
    squares: Tensor,
    largest: Tensor,
    smallest: Tensor,
) -> None:
    """Put each text's statistics: count [Q, texts, neurons], the others [Q, A, texts, neurons].

    activations and inside are [texts, neurons, positions]. An empty quadrant has -inf as largest and inf as smallest.
    """
    outside, scratch = torch.empty_like(inside[0]), torch.empty_like(inside[0])
    for q, weight in enumerate(inside):
        torch.sum(weight, dim=2, out=count[q])
        torch.reciprocal(weight, out=outside).neg_().add_(1)  # 0 inside the quadrant, -inf outside
        for a, value in enumerate(activations):
            torch.sum(torch.mul(value, weight, out=scratch), dim=2, out=sums[q, a])
            torch.sum(scratch.square_(), dim=2, out=squares[q, a])
            torch.amax(torch.add(value, outside, out=scratch), dim=2, out=largest[q, a])
            torch.amin(torch.sub(value, outside, out=scratch), dim=2, out=smallest[q, a])


class LayerState:
    """One layer's running aggregate, on the device of the forward pass. Letters as in `Aggregate`."""

    def __init__(self, mlp: GatedMLP, options: CollectionOptions, device: str) -> None:
        self.mlp = mlp
        self.before, self.after, self.keep = options.window_before, options.window_after, options.examples
        neurons, lists = mlp.width, len(LISTS)
        self.counted = torch.zeros((), dtype=torch.int64, device=device)
        self.count = torch.zeros(len(QUADRANTS), neurons, dtype=torch.int64, device=device)
        cells = (len(QUADRANTS), len(ACTIVATIONS), neurons)
        self.sum = torch.zeros(cells, dtype=torch.float64, device=device)
        self.sum_of_squares = torch.zeros(cells, dtype=torch.float64, device=device)
        self.minimum = torch.full(cells, torch.inf, device=device)
        self.maximum = torch.full(cells, -torch.inf, device=device)
        entries = (lists * neurons, options.examples)
        self.value = torch.zeros(entries, device=device)
        self.post = torch.zeros(entries, device=device)
        self.text = torch.full(entries, NO_TEXT, dtype=torch.int32, device=device)
        self.position = torch.zeros(entries, dtype=torch.int32, device=device)
        # Windows stay where they were written; `slot` says which window an entry of a list has.
        self.slot = torch.arange(options.examples, device=device).expand(entries).contiguous()
        self.window_gate = torch.zeros(*entries, options.window, dtype=torch.float16, device=device)
        self.window_in = torch.zeros_like(self.window_gate)
        self.sample_gate: list[Tensor] = []
        self.sample_in: list[Tensor] = []

    def reduce(self, gate: Tensor, in_: Tensor, post: Tensor, lengths: Tensor, counted: Tensor, texts: range) -> None:
        """Fold in the texts of a pack.

        gate, in_ and post are [texts, positions, neurons] in the model's dtype; lengths [texts];
        counted [texts, positions] in float32, 1 where a position counts.
        """
        if not all(bool(torch.isfinite(part.float().sum())) for part in (gate, in_, post)):
            self._raise_if_not_finite(gate, in_, post, lengths, texts)
        # Positions last: a text's activations of one neuron lie together, for its maxima and its windows.
        shape = (len(texts), gate.shape[2], gate.shape[1])
        activations = [torch.empty(shape, device=gate.device) for _ in ACTIVATIONS]
        inside = [torch.empty(shape, device=gate.device) for _ in QUADRANTS]
        texts_of_neurons = (len(texts), self.mlp.width)
        count = torch.empty(len(QUADRANTS), *texts_of_neurons, device=gate.device)
        sums, squares, largest, smallest = torch.empty(
            4, len(QUADRANTS), len(ACTIVATIONS), *texts_of_neurons, device=gate.device
        )
        at_once = max(1, CELLS_AT_ONCE // activations[0][0].numel())
        for first in range(0, len(texts), at_once):
            part = slice(first, first + at_once)
            for stored, tensor in zip(activations, (gate, in_, None, post), strict=True):
                stored[part] = self.mlp.act(activations[0][part]) if tensor is None else tensor[part].transpose(1, 2)
            here, weights = [stored[part] for stored in activations], [stored[part] for stored in inside]
            put_quadrant_weights(here[0], here[1], counted[part], weights)
            put_statistics(here, weights, *(stored[..., part, :] for stored in (count, sums, squares, largest, smallest)))
        # float32 within a text, float64 across texts.
        self.counted += counted.sum().long()
        self.count += count.sum(dim=1, dtype=torch.float64).long()
        self.sum += sums.double().sum(dim=2)
        self.sum_of_squares += squares.double().sum(dim=2)
        torch.maximum(self.maximum, largest.amax(dim=2), out=self.maximum)
        torch.minimum(self.minimum, smallest.amin(dim=2), out=self.minimum)
        farthest = torch.where(count[:, None] > 0, torch.maximum(largest, -smallest).abs(), -1.0)
        lists = [farthest[QUADRANTS.index(quadrant), ACTIVATIONS.index(activation)] for quadrant, activation in LISTS]
        self._insert(activations, inside, torch.stack(lists, dim=1), lengths, texts)

    def _raise_if_not_finite(self, gate: Tensor, in_: Tensor, post: Tensor, lengths: Tensor, texts: range) -> None:
        for name, tensor in (("gate", gate), ("in", in_), ("post", post)):
            for row, length in enumerate(lengths.tolist()):
                if not bool(torch.isfinite(tensor[row, :length]).all()):
                    raise InputError(
                        f"Layer {self.mlp.layer} has an infinite or undefined {name} in text {texts[row]}; "
                        f"use a wider model.dtype or check the checkpoint's weights."
                    )

    def _insert(self, activations: list[Tensor], inside: list[Tensor], farthest: Tensor, lengths: Tensor, texts: range) -> None:
        """Put the texts whose largest |value| [texts, lists, neurons] beats a list's last example into that list."""
        largest = farthest.flatten(1).T
        last = torch.where(self.text[:, -1] == NO_TEXT, -1.0, self.value[:, -1].abs())[:, None]
        breaks_tie = ACT_LISTS.to(last.device).repeat_interleave(self.mlp.width)[:, None]
        # A later text loses a tie, except where |post| breaks it.
        enters = (largest > last) | (breaks_tie & (largest == last) & (largest >= 0))
        changed = enters.any(dim=1).nonzero()[:, 0]
        if len(changed) == 0:
            return
        enters, breaks_tie = enters[changed], breaks_tie[changed]
        text = torch.arange(texts.start, texts.stop, dtype=torch.int32, device=last.device)
        value = torch.where(enters, largest[changed], 0.0)
        post = torch.zeros_like(value)
        tied, column = (enters & breaks_tie).nonzero(as_tuple=True)
        post[tied, column] = self._peaks(activations, inside, changed[tied], column, value[tied, column])[2]
        merged = {
            "value": torch.cat([self.value[changed], value], dim=1),
            "post": torch.cat([self.post[changed], post], dim=1),
            "text": torch.cat([self.text[changed], torch.where(enters, text, NO_TEXT)], dim=1),
            "position": torch.cat([self.position[changed], torch.zeros_like(value, dtype=torch.int32)], dim=1),
        }
        order = best(**merged, breaks_tie=breaks_tie, keep=self.keep)
        ranked = {name: both.gather(1, order) for name, both in merged.items()}
        slot = self._reassigned_slots(self.slot[changed], order)
        at, place = ((order >= self.keep) & (ranked["text"] != NO_TEXT)).nonzero(as_tuple=True)
        column = order[at, place] - self.keep
        position, signed, peak_post = self._peaks(activations, inside, changed[at], column, ranked["value"][at, place])
        ranked["position"][at, place] = position.to(torch.int32)
        ranked["value"][at, place] = signed
        ranked["post"][at, place] = peak_post
        for name, best_of_both in ranked.items():
            getattr(self, name)[changed] = best_of_both
        self.slot[changed] = slot
        self._copy_windows(activations, lengths, (changed[at], slot[at, place]), column, position)

    def _peaks(
        self, activations: list[Tensor], inside: list[Tensor], row: Tensor, column: Tensor, largest: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Position, signed value and post of the peak of text `column` in list row `row`, whose |value| is `largest`.

        The peak is the first position with that |value|; for act the one of these with the largest |post|.
        """
        neuron, number = row % self.mlp.width, row // self.mlp.width
        span = column * self.mlp.width + neuron
        position = torch.empty_like(row)
        value, post = torch.empty_like(largest), torch.empty_like(largest)
        for list_number, (quadrant, activation) in enumerate(LISTS):
            weight = inside[QUADRANTS.index(quadrant)].flatten(0, 1)
            ranked, posts = (part.flatten(0, 1) for part in (activations[ACTIVATIONS.index(activation)], activations[3]))
            for part in torch.split((number == list_number).nonzero()[:, 0], max(1, ROW_CELLS_AT_ONCE // weight.shape[1])):
                cells = ranked[span[part]]
                peak = cells.abs() == largest[part, None]
                # Only where the same |value| stands at several positions must the quadrant and |post| decide.
                several = (peak.sum(dim=1, dtype=torch.int32) > 1).nonzero()[:, 0]
                peak[several] &= weight[span[part[several]]] > 0
                first = peak.to(torch.uint8).argmax(dim=1)
                if activation == "act":
                    ties = torch.where(peak[several], posts[span[part[several]]].abs(), -1.0)
                    first[several] = ties.argmax(dim=1)
                position[part] = first
                value[part] = cells.gather(1, first[:, None])[:, 0]
                post[part] = posts[span[part], first]
        return position, value, post

    def _reassigned_slots(self, slot: Tensor, order: Tensor) -> Tensor:
        """The window slots [rows, K] of the entries in `order`: kept entries keep theirs, new ones take free ones."""
        old = order < self.keep
        kept = slot.gather(1, order.clamp(max=self.keep - 1))
        taken = torch.zeros_like(slot, dtype=torch.bool)
        rows, places = old.nonzero(as_tuple=True)
        taken[rows, kept[rows, places]] = True
        free = taken.to(torch.int8).argsort(dim=1, stable=True)
        nth = (~old).cumsum(dim=1) - 1
        return torch.where(old, kept, free.gather(1, nth.clamp(min=0)))

    def _copy_windows(
        self,
        activations: list[Tensor],
        lengths: Tensor,
        destination: tuple[Tensor, Tensor],
        column: Tensor,
        position: Tensor,
    ) -> None:
        """Copy gate and in around `position` of text `column` to the (row, slot) of `destination`, 0 outside the text."""
        real = torch.arange(activations[0].shape[2], device=column.device) < lengths.to(column.device)[:, None]
        span = column * self.mlp.width + destination[0] % self.mlp.width
        for name, activation in (("window_gate", activations[0]), ("window_in", activations[1])):
            padded = torch.nn.functional.pad(activation * real[:, None], (self.before, self.after)).flatten(0, 1)
            cells, fits = narrow(padded.unfold(1, self.before + 1 + self.after, 1)[span, position])
            if not fits and getattr(self, name).dtype == torch.float16:
                setattr(self, name, getattr(self, name).float())
            stored = getattr(self, name)
            stored[destination] = cells.to(stored.dtype)

    def keep_sample(self, gate: Tensor, in_: Tensor, row: Tensor, position: Tensor) -> None:
        """Keep gate and in of the sampled positions (row, position) of a pack."""
        self.sample_gate.append(gate[row, position].float())
        self.sample_in.append(in_[row, position].float())


class ShardCollection:
    """One shard in the making: forwards packs and keeps each wanted layer's running aggregate."""

    def __init__(
        self,
        corpus: TokenizedCorpus,
        mlps: Sequence[GatedMLP],
        options: CollectionOptions,
        sample: Sample,
        device: str,
        workers: LayerWorkers,
    ) -> None:
        self.corpus, self.mlps, self.options, self.sample, self.device = corpus, mlps, options, sample, device
        self.workers = workers
        self.states = {mlp.layer: LayerState(mlp, options, device) for mlp in mlps}
        self.sampled: list[slice] = []
        self.positions = 0

    def forward(self, model: torch.nn.Module, texts: range) -> None:
        """Forward one pack, right-padded, and fold every tapped layer."""
        corpus = self.corpus
        lengths = torch.from_numpy(np.diff(corpus.offsets[texts.start : texts.stop + 1]))
        token = torch.zeros(len(texts), int(lengths.max()), dtype=torch.int64)
        real = torch.arange(token.shape[1]) < lengths[:, None]
        span = slice(int(corpus.offsets[texts.start]), int(corpus.offsets[texts.stop]))
        token[real] = torch.from_numpy(corpus.token[span].astype(np.int64))
        counted = real.clone()
        if not self.options.count_special_tokens:
            counted[real] = torch.from_numpy(~corpus.special[span])
        self.positions += int(counted.sum())
        sampled = self.sample.of_texts(texts)
        self.sampled.append(sampled)
        row = torch.from_numpy(self.sample.text[sampled].astype(np.int64) - texts.start).to(self.device)
        position = torch.from_numpy(self.sample.position[sampled].astype(np.int64)).to(self.device)
        counted = counted.to(self.device, torch.float32)

        def reduce(mlp: GatedMLP, gate: Tensor, in_: Tensor, post: Tensor) -> None:
            state = self.states[mlp.layer]
            state.reduce(gate, in_, post, lengths, counted, texts)
            state.keep_sample(gate, in_, row, position)

        run_taps(model, self.mlps, token.to(self.device), real.to(self.device).long(), partial(self.workers.submit, reduce))
        self.workers.wait()

    def write(self, mlp: GatedMLP, folder: Path, footer: Mapping[str, object]) -> None:
        """Write the finished aggregate of one layer."""
        write_aggregate(self.aggregate(mlp), folder, footer)

    def aggregate(self, mlp: GatedMLP) -> Aggregate:
        """The finished aggregate of one layer."""
        state = self.states[mlp.layer]
        entries = (len(LISTS), mlp.width, self.options.examples)
        text = state.text.cpu().numpy().reshape(entries)
        position = state.position.cpu().numpy().reshape(entries)

        def windows(stored: Tensor) -> npt.NDArray[np.floating]:
            ordered = stored.gather(1, state.slot[..., None].expand(stored.shape))
            cells: npt.NDArray[np.floating] = ordered.cpu().numpy().reshape(*entries, -1)
            return cells

        def sampled(kept: list[Tensor], order: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
            rows = torch.cat(kept) if kept else torch.zeros(0, mlp.width)
            cells: npt.NDArray[np.floating] = narrow(rows)[0].cpu().numpy()[order]
            return cells

        places = np.concatenate([np.arange(part.start, part.stop) for part in self.sampled] or [np.zeros(0, np.int64)])
        order = np.argsort(self.sample.hash[places])
        places = places[order]
        sample_text, sample_position = self.sample.text[places], self.sample.position[places]
        return Aggregate(
            layer=mlp.layer,
            positions=self.positions,
            zero=(state.counted - state.count.sum(dim=0)).cpu().numpy(),
            count=state.count.cpu().numpy(),
            sum=state.sum.cpu().numpy(),
            sum_of_squares=state.sum_of_squares.cpu().numpy(),
            minimum=state.minimum.cpu().numpy(),
            maximum=state.maximum.cpu().numpy(),
            value=state.value.cpu().numpy().reshape(entries),
            post=state.post.cpu().numpy().reshape(entries),
            text=text,
            position=position,
            window_token=self._window_tokens(text, position),
            window_gate=windows(state.window_gate),
            window_in=windows(state.window_in),
            window_before=self.options.window_before,
            sample_hash=self.sample.hash[places],
            sample_text=sample_text,
            sample_position=sample_position,
            sample_token=self.corpus.token[self.corpus.offsets[sample_text] + sample_position],
            sample_gate=sampled(state.sample_gate, order),
            sample_in=sampled(state.sample_in, order),
            sample_positions=self.options.sample_positions,
        )

    def _window_tokens(self, text: npt.NDArray[np.int32], position: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        cell = position[..., None] + np.arange(-self.options.window_before, self.options.window_after + 1)
        first = self.corpus.offsets[text.clip(0)]
        length = self.corpus.offsets[text.clip(0) + 1] - first
        within = (cell >= 0) & (cell < length[..., None]) & (text >= 0)[..., None]
        token = self.corpus.token[np.where(within, first[..., None] + cell, 0)]
        return np.where(within, token, NO_TOKEN).astype(np.int32)
