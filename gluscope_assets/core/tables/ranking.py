"""The order of examples, in one place: collecting and merging both rank with it.

An example is better if its |value| is larger; for act lists then if |post| is larger, because Swish saturates; then if
its text, then its position, comes earlier. This order is total, so a list depends on neither the order of work nor the
cut into shards.

What belongs here: the order alone. What a list stores of an example is declared in `schema`, and windows are gathered by
`collect`. It ranks with torch, because collecting does so on the accelerator that holds the activations.
"""

import torch
from torch import Tensor

from gluscope_assets.core.quadrants import LISTS

NO_TEXT = -1
"""The text number of an empty place in a list. Empty places come last."""

ACT_LISTS = torch.tensor([activation == "act" for _, activation in LISTS])
"""[lists], whether |post| breaks ties."""


def best(value: Tensor, post: Tensor, text: Tensor, position: Tensor, breaks_tie: Tensor, keep: int) -> Tensor:
    """The indices of the best examples along the last axis, best first: int64 [..., keep].

    `value` and `post` are float32, `text` and `position` integers, all [..., examples]; `breaks_tie` is bool and is broadcast
    to that shape. A text is `NO_TEXT` where there is no example.
    """
    occurrence = (text.to(torch.int64) << 32) | position.to(torch.int64)  # [..., examples]
    by_occurrence = occurrence.argsort(dim=-1)
    # (|value|, |post| where it breaks ties) as one int64: the bits of a non-negative float32 order as the float does.
    high = value.abs().view(torch.int32).to(torch.int64) << 32
    low = post.abs().view(torch.int32).to(torch.int64) * breaks_tie
    key = torch.where(text == NO_TEXT, -1, high | low).gather(-1, by_occurrence)
    by_key = key.argsort(dim=-1, descending=True, stable=True)[..., :keep]  # [..., keep]
    return by_occurrence.gather(-1, by_key)
