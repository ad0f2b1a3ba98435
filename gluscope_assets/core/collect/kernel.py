"""The C kernel: compiled with the machine's own compiler when first used, and called on a layer's state.

What belongs here: building and binding `kernel.c`. What it computes is said in `reduction`, which also does the same in
plain torch where there is no compiler.

Written by hand in C, because no library adds a value to the one quadrant that its position belongs to: torch computes each
statistic of every quadrant over all positions, in 50 masked operations that take 120 to 200 ns a neuron and token, 10 if
compiled; the kernel takes 3, lists included (docs/benchmarks.md). It is one file for the compiler that is there: nothing is
shipped for each processor, and whoever has no compiler loses time and nothing else.
"""

import ctypes
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernel.c")

# No contraction: a product rounds as the plain formulation rounds it.
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")

NOT_FINITE = 1
"""What the kernel returns when an activation is infinite or undefined."""

GATE_AND_IN = 2

_BATCH = {"counted": torch.bool, "offset": torch.int64, "text": torch.int32, "position": torch.int32}
_NUMBERS = ("texts", "neurons", "examples", "before", "window", "is_routed")
_STATE = {
    "count": torch.int64,
    "sum": torch.float64,
    "squares": torch.float64,
    "largest": torch.float32,
    "value": torch.float32,
    "post": torch.float32,
    "list_text": torch.int32,
    "list_position": torch.int32,
    "slot": torch.int64,
}
_TENSORS = _BATCH | _STATE


class _Work(ctypes.Structure):
    """As `Work` in kernel.c."""

    _fields_ = (
        ("activation", ctypes.c_void_p * 4),
        *((name, ctypes.c_void_p) for name in _BATCH),
        *((name, ctypes.c_int64) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in _STATE),
        ("windows", ctypes.c_void_p * GATE_AND_IN),
        ("wide", ctypes.c_int64 * GATE_AND_IN),
        ("unfit", ctypes.c_int64 * GATE_AND_IN),
    )


@cache
def load() -> ctypes.CDLL | None:
    """The compiled kernel; None, after a line in the log, where it cannot be compiled."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        logger.warning("There is no C compiler: the reduction runs in plain torch, several times slower.")
        return None
    with tempfile.TemporaryDirectory(prefix="gluscope-") as folder:
        library = Path(folder) / "kernel.so"
        command = [compiler, *FLAGS, "-o", str(library), str(SOURCE), "-lm"]
        compiled = subprocess.run(command, capture_output=True, text=True, check=False)
        if compiled.returncode != 0:
            first = next(iter(compiled.stderr.splitlines()), f"exit status {compiled.returncode}")
            logger.warning("%s cannot compile %s (%s): the reduction runs in plain torch.", compiler, SOURCE.name, first)
            return None
        loaded = ctypes.CDLL(str(library))
    loaded.gluscope_reduce.argtypes = [ctypes.POINTER(_Work)]
    loaded.gluscope_reduce.restype = ctypes.c_int
    return loaded


def reduce(
    library: ctypes.CDLL, activation: Sequence[Tensor], windows: Sequence[Tensor], **fields: Any
) -> tuple[bool, list[int]]:
    """Fold a batch into a layer's state. Other threads run meanwhile.

    `activation` are the four float32 [tokens, neurons], `windows` those of gate and in, `fields` what else `Work` in kernel.c
    holds and does not follow from these, with the names, shapes and types there; all tensors are contiguous and on the CPU.
    Gives whether all activations are finite, and the numbers of the windows that a value is too large for as float16.
    """

    def pointer(tensor: Any, kind: torch.dtype) -> int:
        assert tensor.dtype == kind, (tensor.dtype, kind)
        assert tensor.is_contiguous()
        assert tensor.device.type == "cpu"
        return int(tensor.data_ptr())

    given = {name: pointer(value, _TENSORS[name]) if name in _TENSORS else value for name, value in fields.items()}
    work = _Work(
        activation=(ctypes.c_void_p * 4)(*(pointer(tensor, torch.float32) for tensor in activation)),
        texts=len(fields["text"]),
        neurons=activation[0].shape[1],
        **given,
        windows=(ctypes.c_void_p * GATE_AND_IN)(*(pointer(tensor, tensor.dtype) for tensor in windows)),
        wide=(ctypes.c_int64 * GATE_AND_IN)(*(tensor.dtype == torch.float32 for tensor in windows)),
    )
    returned = library.gluscope_reduce(ctypes.byref(work))
    return returned != NOT_FINITE, [number for number in range(GATE_AND_IN) if work.unfit[number]]
