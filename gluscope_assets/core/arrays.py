"""Small operations on arrays that several rooms need.

What belongs here: operations that know nothing of models, texts or tables, and that stand in more than one module.
What does not: whatever only one module needs. torch is imported inside functions, because pages are made without it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

HALF_OVERFLOWS = 65520.0
"""The smallest magnitude that rounds to infinity in float16."""


Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int32]
"""Numbers of texts, positions, tokens and experts, as they are stored."""


def offsets_of(lengths: Sequence[int] | npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Where runs of these lengths begin if one follows the other, and where the last one ends: int64 [runs + 1] from 0.

    Run i of an array is array[offsets[i] : offsets[i + 1]]. The begins alone are offsets[:-1].
    """
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(first: npt.NDArray[np.integer[Any]], length: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """first[0], first[0] + 1, … (length[0] of them), first[1], …: int64 [sum of length], from two arrays [runs].

    What `numpy.concatenate` of an `arange` for each run gives, without a loop.
    """
    begin = np.cumsum(length) - length
    return np.asarray(np.repeat(first - begin, length) + np.arange(int(length.sum())), dtype=np.int64)


def narrow(values: "Tensor") -> "tuple[Tensor, bool]":
    """Round each value, float of any shape, to the nearest float16; a non-zero never becomes 0, what is too large stays wide.

    Gives float16 and True if all fit, else float32 and False: values that fit are then rounded all the same.
    """
    import torch

    size = values.abs()
    smallest = torch.finfo(torch.float16).smallest_normal * 2.0**-10
    half = (values.sign() * size.clamp(min=smallest)).to(torch.float16)
    if values.numel() == 0 or not bool((size >= HALF_OVERFLOWS).any()):
        return half, True
    return torch.where(size >= HALF_OVERFLOWS, values.float(), half.float()), False
