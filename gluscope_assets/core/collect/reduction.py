"""The reduction: a batch's activations of one layer folded into counts, sums, example lists, windows and the sample.

What belongs here: the running state of a layer and the plain torch formulation, which says what is computed and runs on
every device: compiled into one kernel on a GPU, as it stands on a CPU without a C compiler. With one, `kernel` does the
same faster. The forward pass, files and shards belong elsewhere.
"""

import logging
from collections.abc import Callable
from ctypes import CDLL
from functools import cache

import torch
from torch import Tensor

from gluscope_assets.core.arrays import narrow
from gluscope_assets.core.collect import kernel
from gluscope_assets.core.collect.forward import Batch
from gluscope_assets.core.errors import InputError, OutOfMemory
from gluscope_assets.core.model.gated_mlp import Activations, GatedMLP
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, signs_of
from gluscope_assets.core.tables.ranking import ACT_LISTS, NO_TEXT, best

logger = logging.getLogger(__name__)

CELLS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Positions x neurons reduced together: what a core's cache holds of one tensor, or what fills a GPU."""

GATHERS_AT_ONCE = 4
"""How many times more cells are gathered together for peaks and windows: their operations are many and small."""


# The statistics of texts, in plain torch


def quadrant_weights(gate: Tensor, in_: Tensor, counted: Tensor) -> list[Tensor]:
    """For each of QUADRANTS 1.0 at its counted positions and 0.0 elsewhere.

    gate and in_ are [texts, positions, neurons], counted [texts, positions]. Floats, not booleans, because plain
    arithmetic is vectorised on every device where masked fills are not.
    """
    gate_signs, in_signs = _sign_weights(gate), _sign_weights(in_)
    in_signs = {name: sign * counted[..., None] for name, sign in in_signs.items()}
    return [gate_signs[gate_sign] * in_signs[in_sign] for gate_sign, in_sign in map(signs_of, QUADRANTS)]


def _sign_weights(values: Tensor) -> dict[str, Tensor]:
    """1.0 where a value is positive and where it is negative, 0.0 elsewhere, each of the shape of `values`."""
    sign = values.sign()
    positive = sign.clamp(min=0) + 0.0  # -0.0 + 0.0 is 0.0: no weight is a negative zero
    return {"+": positive, "-": positive - sign}


def text_statistics(
    gate: Tensor, in_: Tensor, act: Tensor, post: Tensor, counted: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each text's count [Q, texts, neurons], and sum, sum of squares and largest |value| [Q, A, texts, neurons].

    Activations are [texts, positions, neurons] in float32, counted [texts, positions]. Sums are float64; the largest of
    an empty quadrant is -1.
    """
    counts, sums, squares, largest = [], [], [], []
    for weight in quadrant_weights(gate, in_, counted):
        count = weight.sum(dim=1)  # [texts, neurons]
        counts.append(count)
        for value in (gate, in_, act, post):
            inside = value * weight  # [texts, positions, neurons]
            wide = inside.double()
            sums.append(wide.sum(dim=1))  # [texts, neurons], as the two below
            squares.append(wide.square_().sum(dim=1))
            largest.append(torch.where(count > 0, inside.abs_().amax(dim=1), -1.0))
    shape = (len(QUADRANTS), len(ACTIVATIONS), *counts[0].shape)
    stacked = (torch.stack(of_quadrants).view(shape) for of_quadrants in (sums, squares, largest))
    return torch.stack(counts), *stacked  # type: ignore[return-value]


@cache
def compiled_text_statistics() -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    """`text_statistics` as one kernel for every shape, or as it stands, after a line in the log, without a compiler."""
    compiled = torch.compile(text_statistics, dynamic=True)
    works = True

    def statistics(*arguments: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        nonlocal works
        if works:
            try:
                return compiled(*arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # torch's compilers raise errors of many kinds
                works = False
                logger.warning("The reduction cannot be compiled (%s): it runs unfused.", str(error).split("\n")[0])
        return text_statistics(*arguments)

    return statistics


# The state of a layer


class LayerState:
    """One layer's running aggregate. Letters as in `Aggregate`; its arrays lie on the device of the forward pass.

    The windows, nine tenths of it, lie in pinned host memory instead if `windows_on_host`.
    """

    def __init__(
        self, mlp: GatedMLP, options: CollectionOptions, device: str, windows_on_host: bool = False, sampled: int = 0
    ) -> None:
        self.mlp, self.options = mlp, options
        neurons, lists, keep = mlp.width, len(LISTS), options.examples
        cells = (len(QUADRANTS), len(ACTIVATIONS), neurons)
        self.positions = 0
        self.count = torch.zeros(len(QUADRANTS), neurons, dtype=torch.int64, device=device)
        self.sum = torch.zeros(cells, dtype=torch.float64, device=device)
        self.sum_of_squares = torch.zeros(cells, dtype=torch.float64, device=device)
        self.largest = torch.zeros(cells, device=device)
        # Lists, a row for each list and neuron, best first.
        entries = (lists * neurons, keep)
        self.value = torch.zeros(entries, device=device)
        self.post = torch.zeros(entries, device=device)
        self.text = torch.full(entries, NO_TEXT, dtype=torch.int32, device=device)
        self.position = torch.zeros(entries, dtype=torch.int32, device=device)
        # A window stays where it was copied; slot says where the window of each entry lies.
        self.slot = torch.arange(keep, device=device).expand(entries).contiguous()
        self.windows = [
            torch.zeros(
                *entries, options.window, dtype=torch.float16, device="cpu" if windows_on_host else device,
                pin_memory=windows_on_host,
            )
            for _ in ("gate", "in")
        ]  # fmt: skip
        # [sampled positions, neurons] of gate and in, on the host; undefined where a position is not routed here.
        self.sample = [torch.full((sampled, neurons), torch.nan, dtype=torch.float16) for _ in ("gate", "in")]
        self.cells_at_once = CELLS_AT_ONCE[torch.device(device).type]
        self.breaks_tie = ACT_LISTS.to(device).repeat_interleave(neurons)[:, None]

    @staticmethod
    def bytes_of(neurons: int, options: CollectionOptions) -> tuple[int, int]:
        """Bytes of a layer's state without its windows, and of its windows."""
        entries = neurons * len(LISTS) * options.examples
        cells = neurons * len(QUADRANTS) * len(ACTIVATIONS)
        return entries * 24 + cells * 20 + neurons * 8 * len(QUADRANTS), entries * options.window * 4

    def reduce(self, activations: Activations, batch: Batch, tokens: Tensor, rows: Tensor) -> None:
        """Fold in a batch: its statistics and examples, and gate and in of its sampled `tokens` as `rows` of the sample.

        Activations are [tokens, neurons] in the order of the batch; `tokens` and `rows` are int64 [sampled positions].
        InputError if an activation is infinite or undefined.
        """
        library = kernel.load() if activations.gate.device.type == "cpu" else None
        finite = self._reduce_plainly(activations, batch) if library is None else self._reduce(library, activations, batch)
        if not finite:
            self._raise_not_finite(activations, batch)
        self.positions += int(batch.counted.sum())
        for number, activation in enumerate((activations.gate, activations.in_)):
            cells, fits = narrow(activation[tokens.to(activation.device)].float())  # [sampled positions, neurons]
            if not fits:
                self.sample[number] = self.sample[number].float()
            self.sample[number][rows] = cells.to(self.sample[number])

    def _raise_not_finite(self, activations: Activations, batch: Batch) -> None:
        for name, tensor in self.mlp.by_name(activations).items():
            wrong = (~torch.isfinite(tensor)).any(dim=1).nonzero()[:, 0].tolist()
            if wrong:
                text = batch.text[batch.offsets.searchsorted(wrong[0], side="right") - 1]
                raise InputError(
                    f"Layer {self.mlp.layer} has an infinite or undefined {name} in text {text}; "
                    f"use a wider model.dtype or check the checkpoint's weights."
                )
        raise AssertionError("the reduction found a value that is not finite, and there is none")

    def _reduce(self, library: CDLL, activations: Activations, batch: Batch) -> bool:
        """Fold in a batch with the C kernel; False if an activation is not finite."""
        finite, unfit = kernel.reduce(
            library,
            [tensor.float().contiguous() for tensor in self.mlp.by_name(activations).values()],
            self.windows,
            counted=torch.from_numpy(batch.counted),
            offset=torch.from_numpy(batch.offsets),
            text=torch.from_numpy(batch.text),
            position=torch.from_numpy(batch.position),
            examples=self.options.examples,
            before=self.options.window_before,
            window=self.options.window,
            is_routed=batch.is_routed,
            count=self.count,
            sum=self.sum,
            squares=self.sum_of_squares,
            largest=self.largest,
            value=self.value,
            post=self.post,
            list_text=self.text,
            list_position=self.position,
            slot=self.slot,
        )
        if unfit:
            for number in unfit:
                self.windows[number] = self.windows[number].float()
            # All examples from this batch, [examples] each: their list's row, their rank in it, their text in the batch.
            row, rank = torch.isin(self.text, torch.from_numpy(batch.text)).nonzero(as_tuple=True)
            ordered, order = torch.from_numpy(batch.text).sort()
            column = order[torch.searchsorted(ordered, self.text[row, rank])]
            self._copy_windows(activations, batch, row, self.slot[row, rank], column, self.position[row, rank].long())
        return finite

    def _reduce_plainly(self, activations: Activations, batch: Batch) -> bool:
        """Fold in a batch with torch's own operations; False if an activation is not finite."""
        device = activations.gate.device
        statistics = text_statistics if device.type == "cpu" else compiled_text_statistics()
        counted = torch.from_numpy(batch.counted).to(device)  # [tokens]
        measured: list[tuple[Tensor, ...]] = []

        def measure(texts: slice) -> None:
            # [texts, positions] both, [texts, positions, neurons] the activations.
            token, real = token_grid(batch, torch.arange(texts.start, texts.stop, device=device))
            gate, in_, act, post = self.mlp.by_name(activations.each(lambda tensor: tensor[token].float())).values()
            measured.append(statistics(gate, in_, act, post, (counted[token] & real).float()))

        self._by_slices(len(batch.text), int(batch.length.max()) * self.mlp.width, measure)
        # count [Q, texts, neurons], the others [Q, A, texts, neurons].
        count, sums, squares, largest = (torch.cat(slices, dim=-2) for slices in zip(*measured, strict=True))
        if not bool(torch.isfinite(squares).all()):
            return False
        self.count += count.sum(dim=1, dtype=torch.float64).long()  # [Q, neurons]
        self.sum += sums.sum(dim=2)  # [Q, A, neurons], as the two below
        self.sum_of_squares += squares.sum(dim=2)
        torch.maximum(self.largest, largest.amax(dim=2), out=self.largest)
        # [texts, neurons] each.
        lists = [largest[QUADRANTS.index(quadrant), ACTIVATIONS.index(activation)] for quadrant, activation in LISTS]
        self._insert(activations, batch, torch.stack(lists, dim=1))
        return True

    def _by_slices(self, count: int, cells: int, work: Callable[[slice], None]) -> None:
        """Do `work` on slices of `count` things of so many cells each, smaller slices when memory runs out."""
        first = 0
        while first < count:
            chosen = slice(first, min(count, first + max(1, self.cells_at_once // cells)))
            try:
                work(chosen)
            except torch.OutOfMemoryError as error:
                self._halve(error)
            else:
                first = chosen.stop

    def _halve(self, error: torch.OutOfMemoryError) -> None:
        """Process half as much at once from now on. OutOfMemory if that is less than one token of all neurons."""
        self.cells_at_once //= 2
        if self.cells_at_once < self.mlp.width:
            raise OutOfMemory(
                f"The device has no memory left to reduce layer {self.mlp.layer}; free some or make corpus.pack_tokens smaller."
            ) from error
        logger.warning("Out of memory: %s positions x neurons are reduced at once from now on.", f"{self.cells_at_once:,}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _insert(self, activations: Activations, batch: Batch, largest: Tensor) -> None:
        """Put the texts whose largest |value| [texts, lists, neurons] reaches a list's last example into that list."""
        # Rows are those of the lists, a row for each list and neuron; columns are the batch's texts.
        keep = self.options.examples
        reached = largest.flatten(1).T  # [rows, texts]
        last = torch.where(self.text[:, -1] == NO_TEXT, -0.5, self.value[:, -1].abs())[:, None]  # [rows, 1]
        enters = reached >= last  # [rows, texts]
        changed = enters.any(dim=1).nonzero()[:, 0]  # [changed rows]
        if len(changed) == 0:
            return
        at, column = enters[changed].nonzero(as_tuple=True)  # [entering], among the changed rows and the texts
        position, value, post = self._peaks(activations, batch, changed[at], column, reached[changed[at], column])  # [entering]
        text = torch.from_numpy(batch.text).to(value.device)  # [texts]
        entering = {"value": value, "post": post, "text": text[column], "position": position.to(torch.int32)}
        merged = {}  # [changed rows, K + texts] each; then the K of them that stay, best first
        for name, entries in entering.items():
            new = entries.new_full((len(changed), len(text)), NO_TEXT if name == "text" else 0)
            new[at, column] = entries
            merged[name] = torch.cat([getattr(self, name)[changed], new], dim=1)
        order = best(**merged, breaks_tie=self.breaks_tie[changed], keep=keep)  # [changed rows, K]
        slot = self._reassigned_slots(self.slot[changed], order)  # [changed rows, K]
        for name, both in merged.items():
            getattr(self, name)[changed] = both.gather(1, order)
        self.slot[changed] = slot
        at, rank = ((order >= keep) & (self.text[changed] != NO_TEXT)).nonzero(as_tuple=True)  # [entered]
        row = changed[at]
        self._copy_windows(activations, batch, row, slot[at, rank], order[at, rank] - keep, self.position[row, rank].long())

    def _peaks(
        self, activations: Activations, batch: Batch, row: Tensor, column: Tensor, largest: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Position, signed value and post of the peak of text `column` in list row `row`, whose |value| is `largest`.

        All are [peaks]; position is int64, in the text, value and post float32. The peak
        is the first position with that |value|; for act the one of these with the largest |post|.
        """
        neuron, number = row % self.mlp.width, row // self.mlp.width  # [peaks], as all until `find`
        position = torch.empty_like(row)
        value, post = torch.empty_like(largest), torch.empty_like(largest)
        counted = torch.from_numpy(batch.counted).to(row.device)  # [tokens]
        positions = torch.from_numpy(batch.position).to(row.device).long()  # [tokens]
        activation_of = self.mlp.by_name(activations)  # [tokens, neurons] each

        def find(peaks: slice) -> None:
            for list_number in sorted(set(number[peaks].tolist())):
                quadrant, activation = LISTS[list_number]
                chosen = (number[peaks] == list_number).nonzero()[:, 0] + peaks.start  # [chosen peaks]
                token, real = token_grid(batch, column[chosen])  # [chosen peaks, positions]
                of = neuron[chosen, None]  # [chosen peaks, 1]
                ranked = activation_of[activation]
                peak = real & (ranked[token, of].abs() == largest[chosen, None])  # [chosen peaks, positions]
                # Only where the same |value| stands at several positions must the quadrant and |post| decide.
                several = (peak.sum(dim=1) > 1).nonzero()[:, 0]  # [tied peaks]
                at, beside = token[several], of[several]  # [tied peaks, positions], [tied peaks, 1]
                inside = peak[several] & counted[at]  # [tied peaks, positions]
                for name, sign in zip(("gate", "in"), signs_of(quadrant), strict=True):
                    values = activation_of[name][at, beside]
                    inside &= (values > 0) if sign == "+" else (values < 0)
                preference = peak.to(torch.float32)  # [chosen peaks, positions]
                if activation == "act":
                    preference[several] = torch.where(inside, activation_of["post"][at, beside].float().abs(), -1.0)
                else:
                    preference[several] = inside.to(torch.float32)
                # argmax gives the first of equals.
                first = preference.argmax(dim=1)  # [chosen peaks]
                where = token.gather(1, first[:, None])[:, 0]  # [chosen peaks], tokens
                position[chosen] = positions[where]
                value[chosen] = ranked[where, neuron[chosen]].float()
                post[chosen] = activation_of["post"][where, neuron[chosen]].float()

        self._by_slices(len(row), max(1, int(batch.length.max()) // GATHERS_AT_ONCE), find)
        return position, value, post

    def _reassigned_slots(self, slot: Tensor, order: Tensor) -> Tensor:
        """The window slots [rows, K] of the entries in `order`: kept entries keep theirs, new ones take free ones."""
        keep = self.options.examples
        old = order < keep  # [rows, K], as all but the two below
        kept = slot.gather(1, order.clamp(max=keep - 1))
        taken = torch.zeros_like(slot, dtype=torch.bool)
        row, rank = old.nonzero(as_tuple=True)  # [kept entries]
        taken[row, kept[row, rank]] = True
        free = taken.to(torch.int8).argsort(dim=1, stable=True)
        nth = (~old).cumsum(dim=1) - 1
        return torch.where(old, kept, free.gather(1, nth.clamp(min=0)))

    def _copy_windows(
        self, activations: Activations, batch: Batch, row: Tensor, slot: Tensor, column: Tensor, position: Tensor
    ) -> None:
        """Copy gate and in around `position` of text `column` to (row, slot), all int64 [windows].

        Outside the text is 0, a position that is not in the batch undefined.
        """
        around = torch.arange(-self.options.window_before, self.options.window_after + 1, device=row.device)
        missing = torch.nan if batch.is_routed else 0.0

        def copy(chosen: slice) -> None:
            # [chosen windows, window] both; [chosen windows, 1] the neurons.
            token, within = tokens_at(batch, column[chosen, None], position[chosen, None] + around)
            of = row[chosen, None] % self.mlp.width
            for number, activation in enumerate((activations.gate, activations.in_)):
                cells, fits = narrow(torch.where(within, activation[token, of].float(), missing))
                if not fits and self.windows[number].dtype == torch.float16:
                    self.windows[number] = self.windows[number].float()
                stored = self.windows[number]
                stored[row[chosen].to(stored.device), slot[chosen].to(stored.device)] = cells.to(stored)

        self._by_slices(len(row), max(1, self.options.window // GATHERS_AT_ONCE), copy)


def tokens_at(batch: Batch, text: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens at some positions of the batch's texts, and whether they are there; any token where they are not.

    `text` and `position` are int64 and broadcast to the shape of both results; texts are numbered within the batch.
    """
    offsets = torch.from_numpy(batch.offsets).to(text.device)
    first, end = offsets[text], offsets[text + 1]
    token = first + position
    if not batch.is_routed:
        within = (token >= first) & (token < end)
        return torch.where(within, token, first), within
    # Texts are set so far apart on one line that no position of one reaches another.
    positions = torch.from_numpy(batch.position).to(text.device).long()  # [tokens], as `line`
    apart = 2 * int(positions.max()) + 2 + int(position.abs().max())
    line = positions + apart * torch.repeat_interleave(torch.from_numpy(batch.length).to(text.device))
    wanted = position + apart * text
    token = torch.searchsorted(line, wanted).clamp(max=len(line) - 1)
    return token, line[token] == wanted


def token_grid(batch: Batch, texts: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of some texts, int64 [texts, positions], and which cells are real: the others repeat a text's last token."""
    first = torch.from_numpy(batch.offsets[:-1]).to(texts.device)[texts]
    length = torch.from_numpy(batch.length).to(texts.device)[texts]
    cell = torch.arange(int(length.max()), device=texts.device)
    return first[:, None] + torch.minimum(cell, length[:, None] - 1), cell < length[:, None]
