"""One shard in the making: batches forwarded by several threads, folded into the states of its layers in their order.

What belongs here: who may fold which batch when, batches that do not fit into memory, and the aggregate of a layer once all are
folded in. What is computed from a batch belongs to `reduction`, how it is forwarded to `forward`, files to `shards`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition, Lock

import numpy as np
import numpy.typing as npt
import torch

from gluscope_assets.core.collect.forward import Batch, Forward
from gluscope_assets.core.collect.reduction import LayerState
from gluscope_assets.core.collect.workers import Abandoned, TokenCounter, wait_for_all
from gluscope_assets.core.corpus.sample import Sample
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.errors import InputError, OutOfMemory
from gluscope_assets.core.model.gated_mlp import Activations, GatedMLP
from gluscope_assets.core.model.taps import Receiver
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets.core.quadrants import LISTS
from gluscope_assets.core.tables.aggregate import NO_EXPERT, NO_TOKEN, Aggregate, concatenate

logger = logging.getLogger(__name__)

DEVICE_SHARE = 0.5
"""The share of a GPU's free memory that windows may take before they move to the host."""


class Turns:
    """Lets threads do something for each block in the order of the batches' numbers, whoever forwards which batch."""

    def __init__(self, blocks: Iterable[str]) -> None:
        self.next = dict.fromkeys(blocks, 0)
        """By block, the batch whose turn it is."""
        self.changed = Condition()
        self.failed = False

    @contextmanager
    def turn(self, block: str, number: int, ends: bool = True) -> Iterator[None]:
        """Wait until all batches before `number` have had their turn at `block`; the batch's turn goes on unless it `ends`.

        Abandoned if another thread has failed: then the turn never comes.
        """
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
    """The running aggregates of one shard, one for each gated MLP of the wanted layers."""

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
        """`texts` are the shard's, ascending. The state of an MLP lies on `device_of` it, or on `device` if that is absent."""
        self.corpus, self.options, self.sample = corpus, options, sample
        on_host = windows_on_host(mlps, options, device)
        sampled = sample.of_texts(texts)
        self.sampled = sampled.take(np.argsort(sampled.hash))
        """The shard's sampled positions in the order of their hashes."""
        size = len(sampled.hash)
        self.states = {mlp: LayerState(mlp, options, device_of(mlp) if device_of else device, on_host, size) for mlp in mlps}
        self.layers: dict[int, list[GatedMLP]] = {}
        for mlp in mlps:
            self.layers.setdefault(mlp.layer, []).append(mlp)
        inside = np.repeat(np.isin(np.arange(corpus.n_texts), texts), np.diff(corpus.offsets))  # [tokens of the corpus]
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
        packs: Sequence[npt.NDArray[np.integer]],
        pool: ThreadPoolExecutor,
        threads: int,
        count_tokens: TokenCounter = lambda tokens: None,
    ) -> None:
        """Forward packs of texts, each batch in one of the pool's threads, and fold the batches in in their order.

        InputError if an activation is infinite or undefined; OutOfMemory if a single text, or the reduction, does not fit.
        """
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
        """Forward a batch, or a piece of one (its last if it `ends`), and fold it in; in halves where memory runs out.

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
        for texts, ends_here in zip(batch.halves(), (False, ends), strict=True):
            half = Batch.of(self.corpus, texts, self.options.count_special_tokens)
            self._forward(forward, half, number, set(folded), ends_here)

    def _receiver(self, number: int, batch: Batch, folded: set[str], ends: bool) -> Receiver:
        """What takes the activations of a batch, block by block, and adds the block to `folded`."""
        sampled = self.sample.of_texts(batch.text)
        # [sampled positions of the batch] each: the text in the batch, the token in it, the row among the shard's.
        text = np.searchsorted(batch.text, sampled.text)
        tokens = batch.offsets[text] + sampled.position
        rows = np.searchsorted(self.sampled.hash, sampled.hash)

        def receive(block: str, computed: list[tuple[GatedMLP, Activations]]) -> None:
            if block in folded:
                return
            with self.turns.turn(block, number, ends):
                for mlp, activations in computed:
                    reduce(mlp, activations)
            folded.add(block)

        def reduce(mlp: GatedMLP, activations: Activations) -> None:
            state = self.states[mlp]
            try:
                if activations.tokens is None:
                    state.reduce(activations, batch, torch.from_numpy(tokens), torch.from_numpy(rows))
                elif len(activations.tokens):
                    routed = activations.tokens.cpu().numpy()  # [rows of the activations]
                    row = np.searchsorted(routed, tokens).clip(max=len(routed) - 1)  # [sampled positions of the batch]
                    seen = routed[row] == tokens  # [sampled positions of the batch], whether the expert sees them
                    state.reduce(activations, batch.routed(routed), torch.from_numpy(row[seen]), torch.from_numpy(rows[seen]))
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
        statistics = {name: getattr(state, name).cpu().numpy() for name in ("count", "sum", "sum_of_squares")}
        peaks = {name: getattr(state, name).cpu().numpy().reshape(entries) for name in ("value", "post", "text", "position")}
        slot = state.slot.cpu()[..., None]
        window_token = self._window_tokens(peaks["text"], peaks["position"])

        def windows(stored: torch.Tensor) -> npt.NDArray[np.floating]:
            stored = stored.cpu()
            cells: npt.NDArray[np.floating] = stored.gather(1, slot.expand(stored.shape)).numpy().reshape(*entries, -1)
            if mlp.expert is not None:
                cells[window_token == NO_TOKEN] = 0
            return cells

        sampled = self.sampled
        return Aggregate(
            layer=mlp.layer,
            positions=self.positions,
            mlp=np.full(mlp.width, mlp.name),
            expert=np.full(mlp.width, NO_EXPERT if mlp.expert is None else mlp.expert, dtype=np.int32),
            index=np.arange(mlp.width, dtype=np.int32),
            routed=np.full(mlp.width, state.positions, dtype=np.int64),
            zero=(state.positions - state.count.sum(dim=0)).cpu().numpy(),
            **statistics,
            largest=state.largest.clamp(min=0).cpu().numpy(),
            **peaks,
            window_token=window_token,
            window_gate=windows(state.windows[0]),
            window_in=windows(state.windows[1]),
            window_before=self.options.window_before,
            sample_hash=sampled.hash,
            sample_text=sampled.text,
            sample_position=sampled.position,
            sample_token=self.corpus.token[self.corpus.offsets[sampled.text] + sampled.position],
            sample_gate=state.sample[0].numpy(),
            sample_in=state.sample[1].numpy(),
            sample_positions=self.options.sample_positions,
        )

    def _window_tokens(self, text: npt.NDArray[np.int32], position: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The tokens of windows, int32 [lists, neurons, examples, window], from their peaks [lists, neurons, examples]."""
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
