"""The forward pass over a pack of texts, at its best: without padding where the model can, else in padded batches.

What belongs here: how texts are laid out for a model, and the attention that keeps packed texts apart. What does not:
which modules are tapped (`taps`) and what is computed from the activations (`reduction`).
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from gluscope_assets.core.arrays import offsets_of, ranges
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.gated_mlp import Activations, GatedMLP, Stack
from gluscope_assets.core.model.taps import Receiver, Taps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

PACKED_ATTENTION = "gluscope_packed"
"""The name under which transformers knows `packed_attention`."""

LEAST_FILLED = 0.8
"""A padded batch ends before more than the rest of its cells would be padding."""

TRIAL_LENGTHS = (3, 5)
TRIAL_TOLERANCE = 0.05
"""Relative difference of mean |gate| and |in| between texts packed and alone. Rounding is far below, a leak far above."""


@dataclass(frozen=True)
class Batch:
    """Texts that are forwarded together, one after the other."""

    text: npt.NDArray[np.int32]
    """[texts]"""
    length: npt.NDArray[np.int64]
    """[texts], in tokens."""
    token: npt.NDArray[np.int64]
    """[tokens]"""
    counted: npt.NDArray[np.bool_]
    """[tokens]"""
    position: npt.NDArray[np.int32]
    """[tokens], each token's position in its text, ascending in each: 0, 1, … unless `is_routed`."""
    is_routed: bool = False
    """Whether these are the tokens routed to an expert: others of the texts are missing."""

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """[texts + 1]; text i is token[offsets[i]:offsets[i + 1]]."""
        return offsets_of(self.length)

    def routed(self, tokens: npt.NDArray[np.int64]) -> "Batch":
        """The batch as an expert sees it: the `tokens` routed to it, ascending, and only the texts that have any."""
        text = np.searchsorted(self.offsets, tokens, side="right") - 1
        present, length = np.unique(text, return_counts=True)
        return Batch(
            self.text[present], length.astype(np.int64), self.token[tokens], self.counted[tokens], self.position[tokens], True
        )

    def halves(self) -> list[npt.NDArray[np.int32]]:
        """At least two texts in two, each half with at least one and about half of the tokens."""
        cut = min(max(int(np.searchsorted(self.offsets, len(self.token) / 2)), 1), len(self.text) - 1)
        return np.split(self.text, [cut])

    @classmethod
    def of(cls, corpus: TokenizedCorpus, texts: npt.NDArray[np.integer], count_special_tokens: bool) -> "Batch":
        """Some texts of a corpus, given by their numbers, int [texts]."""
        length = corpus.offsets[texts + 1] - corpus.offsets[texts]
        token = ranges(corpus.offsets[texts], length)  # [tokens], in the corpus
        counted = np.ones(len(token), bool) if count_special_tokens else ~corpus.special[token]
        return cls.whole(texts, length, corpus.token[token], counted)

    @classmethod
    def whole(
        cls,
        text: npt.NDArray[np.integer],
        length: npt.NDArray[np.int64],
        token: npt.NDArray[np.integer],
        counted: npt.NDArray[np.bool_],
    ) -> "Batch":
        """A batch of whole texts."""
        position = ranges(np.zeros_like(length), length).astype(np.int32)
        return cls(text.astype(np.int32), length, token.astype(np.int64), counted, position)


class Forward(ExitStack):
    """A model with taps on some of its gated MLPs. While open, `run` forwards batches; threads may run at once."""

    def __init__(self, model: "PreTrainedModel | nn.Module", mlps: Sequence[GatedMLP], stack: Stack | None = None) -> None:
        super().__init__()
        self.model, self.stack = model, stack
        self.taps = Taps(model, mlps)
        self.device = next(model.parameters()).device
        self.packed = False

    def __enter__(self) -> "Forward":
        self.enter_context(self.taps)
        self.packed = self._can_pack()
        return self

    def batches(self, corpus: TokenizedCorpus, texts: npt.NDArray[np.integer], count_special_tokens: bool) -> Iterator[Batch]:
        """Texts, int [texts], as the model takes them: as one pack, or in padded batches of texts of similar lengths."""
        if self.packed:
            yield Batch.of(corpus, texts, count_special_tokens)
            return
        for group in similar_lengths(corpus.offsets[texts + 1] - corpus.offsets[texts]):
            yield Batch.of(corpus, texts[group], count_special_tokens)

    def run(self, batch: Batch, receive: Receiver) -> None:
        """Forward a batch. `receive` gets each block's activations, with the batch's tokens that their rows are of."""
        token = torch.from_numpy(batch.token).to(self.device)
        if self.packed:
            position = torch.from_numpy(batch.position.astype(np.int64)).to(self.device)
            pack = Pack.of(batch.length, self.device)
            forward = partial(self._forward, token[None], position_ids=position[None], gluscope_pack=pack)
            self.taps.run(forward, _checked(receive, len(token)))
            return
        real = torch.from_numpy(np.arange(batch.length.max()) < batch.length[:, None]).to(self.device)  # [texts, positions]
        padded = torch.zeros(real.shape, dtype=torch.int64, device=self.device)
        padded[real] = token
        rows = real.flatten().nonzero()[:, 0]  # [tokens], the cell of each
        token_of = torch.full((real.numel(),), -1, device=self.device)  # [texts * positions], the token in each cell
        token_of[rows] = torch.arange(len(rows), device=self.device)

        def unpadded(activations: Activations) -> Activations:
            device = activations.gate.device
            if activations.tokens is None:
                return activations.rows(rows.to(device))
            tokens = token_of.to(device)[activations.tokens]
            kept = (tokens >= 0).nonzero()[:, 0]
            return activations.rows(kept, tokens[kept])

        def receive_unpadded(block: str, computed: list[tuple[GatedMLP, Activations]]) -> None:
            receive(block, [(mlp, unpadded(activations)) for mlp, activations in computed])

        self.taps.run(partial(self._forward, padded, attention_mask=real.long()), _checked(receive_unpadded, real.numel()))

    def _forward(self, token: Tensor, **others: Any) -> None:
        """Run the model, or its wanted stack. A decoder reads the text that its encoder reads."""
        model: Any = self.model
        if self.stack is None:
            others["use_cache"] = False
        elif self.stack == "encoder":
            model = model.get_encoder()
        else:
            others["decoder_input_ids"] = token
            if "attention_mask" in others:
                others["decoder_attention_mask"] = others["attention_mask"]
        model(input_ids=token, **others)

    def _can_pack(self) -> bool:
        """Make the model's attention keep packed texts apart, if it can be made to; a line in the log if not."""
        model: Any = self.model
        if not getattr(model, "_supports_attention_backend", False):
            logger.warning("%s is forwarded in padded batches: its attention cannot be exchanged.", type(model).__name__)
            return False
        usual_attention = model.config._attn_implementation
        self.callback(model.set_attn_implementation, usual_attention)
        vocabulary = model.get_input_embeddings().weight.shape[0]
        length = np.array(TRIAL_LENGTHS)
        token = np.arange(length.sum()) % vocabulary
        both = Batch.whole(np.arange(2), length, token, np.ones(len(token), bool))
        texts = np.split(token, length[:1])
        alone = [Batch.whole(np.arange(1), length[i : i + 1], text, np.ones(len(text), bool)) for i, text in enumerate(texts)]
        expected = [torch.cat(pair) for pair in zip(*map(self._gates_and_ins, alone), strict=True)]
        try:
            model.set_attn_implementation(PACKED_ATTENTION)
            self.packed = True
            packed = self._gates_and_ins(both)
            differs = max(float((a - b).abs().mean() / b.abs().mean()) for a, b in zip(packed, expected, strict=True))
            if differs < TRIAL_TOLERANCE:
                return True
            reason = "its texts do not keep apart in a pack"
        except Exception as error:  # whatever a model of any architecture may raise
            reason = f"packing fails with {type(error).__name__}: {error}"
        self.packed = False
        model.set_attn_implementation(usual_attention)
        logger.warning("%s is forwarded in padded batches: %s.", type(model).__name__, reason)
        return False

    def _gates_and_ins(self, batch: Batch) -> list[Tensor]:
        """Of each MLP that all tokens enter, [tokens, neurons]; of a block that has experts alone, their `_sums`."""
        tensors: list[Tensor] = []

        def receive(block: str, computed: list[tuple[GatedMLP, Activations]]) -> None:
            for _, activations in computed:
                if activations.tokens is None:
                    tensors.extend((activations.gate.float(), activations.in_.float()))
            if all(activations.tokens is not None for _, activations in computed):
                tensors.append(_sums(computed, len(batch.token)))

        self.run(batch, receive)
        return tensors


def _checked(receive: Receiver, tokens: int) -> Receiver:
    """`receive`, after an InputError if a block does not have a row for each token."""

    def receive_checked(block: str, computed: list[tuple[GatedMLP, Activations]]) -> None:
        for mlp, activations in computed:
            if activations.tokens is None and len(activations.gate) != tokens:
                raise InputError(
                    f"{mlp.path} computes {len(activations.gate)} rows for {tokens} tokens; choose layers or a model with one "
                    f"row for each token."
                )
        receive(block, computed)

    return receive_checked


def _sums(computed: list[tuple[GatedMLP, Activations]], tokens: int) -> Tensor:
    """[tokens, 2], the sums of |gate| and |in| over all neurons of the experts that each token is routed to."""
    sums = torch.zeros(tokens, 2)
    for _, activations in computed:
        assert activations.tokens is not None
        gate, in_ = (tensor.float().abs().sum(dim=1) for tensor in (activations.gate, activations.in_))  # [rows]
        sums.index_add_(0, activations.tokens.cpu(), torch.stack([gate, in_], dim=1).cpu())
    return sums


def similar_lengths(length: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of texts of these lengths, int64 [texts], in groups whose longest leaves little padding; each ascending."""
    order = np.argsort(-length, kind="stable")
    first, held = 0, 0
    for rank, text in enumerate(order):
        held += int(length[text])
        if held < LEAST_FILLED * length[order[first]] * (rank + 1 - first):
            yield np.sort(order[first:rank])
            first, held = rank, int(length[text])
    yield np.sort(order[first:])


# Attention over packed texts


@dataclass(frozen=True)
class Pack:
    """Where the texts of a pack lie, as attention needs it."""

    runs: tuple[tuple[int, int, int], ...]
    """(first token, texts, tokens a text) of each run of texts of equal length."""
    offsets: Tensor
    """[texts + 1], int32, on the model's device."""
    longest: int

    @classmethod
    def of(cls, length: npt.NDArray[np.int64], device: torch.device) -> "Pack":
        """The pack of texts of these lengths."""
        runs, first = [], 0
        for tokens, group in groupby(length.tolist()):
            texts = len(list(group))
            runs.append((first, texts, tokens))
            first += texts * tokens
        offsets = torch.from_numpy(offsets_of(length).astype(np.int32)).to(device)
        return cls(tuple(runs), offsets, int(length.max()))


UNDERSTOOD = {"position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states", "return_dict"}
"""Arguments of attention functions that change nothing here. Any other that is given is refused: it may."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    gluscope_pack: Pack | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention inside each text of a pack. query is [1, heads, tokens, size]; gives [1, tokens, heads, size].

    ValueError if the model asks for something that is not done here, such as capped scores.
    """
    given = sorted(name for name, argument in others.items() if argument is not None and name not in UNDERSTOOD)
    if gluscope_pack is None or given:
        raise ValueError(f"packed attention knows no {', '.join(given) or 'pack'}")
    causal = is_causal if is_causal is not None else bool(getattr(module, "is_causal", True))
    if sliding_window is not None and not causal:
        raise ValueError("packed attention knows no window that looks ahead")
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [tokens, heads, size] each
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        return _variable_length(query, key, value, gluscope_pack, causal, sliding_window, scaling)[None], None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    output = query.new_empty(*query.shape[:2], value.shape[2])
    for first, texts, tokens in gluscope_pack.runs:
        run = slice(first, first + texts * tokens)
        # [texts, heads, tokens, size] each.
        q, k, v = (whole[run].view(texts, tokens, *whole.shape[1:]).transpose(1, 2) for whole in (query, key, value))
        mask = None
        if sliding_window is not None and sliding_window < tokens:
            distance = torch.arange(tokens, device=q.device)[:, None] - torch.arange(tokens, device=q.device)
            mask = (distance >= 0) & (distance < sliding_window)
        attended = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None, scale=scaling
        )
        output[run] = attended.transpose(1, 2).flatten(0, 1)
    return output[None], None


def _variable_length(
    query: Tensor, key: Tensor, value: Tensor, pack: Pack, causal: bool, sliding_window: int | None, scaling: float | None
) -> Tensor:
    """The same in one call of torch's FlashAttention, on a GPU. All are [tokens, heads, size]."""
    from torch.nn.attention.varlen import varlen_attn

    before = -1 if sliding_window is None else sliding_window - 1
    attended = varlen_attn(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        pack.offsets,
        pack.offsets,
        pack.longest,
        pack.longest,
        scale=scaling,
        window_size=(before, 0 if causal else -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended, Tensor)  # a pair only if more was asked for
    return attended


def _no_mask(*arguments: Any, **options: Any) -> None:
    """The mask of packed attention: there is none, for the pack says which texts there are."""


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, _no_mask)
