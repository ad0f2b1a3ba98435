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
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernel.c")

# No contraction: a product rounds as the plain formulation rounds it.
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")

NOT_FINITE = 1
"""What the kernel returns when an activation is infinite or undefined."""

GATE_AND_IN = 2

_POINTERS = ("counted", "offset", "text", "position")
_NUMBERS = ("texts", "neurons", "examples", "before", "window", "is_routed")
_STATE = ("count", "sum", "squares", "largest", "value", "post", "list_text", "list_position", "slot")


class _Work(ctypes.Structure):
    """As `Work` in kernel.c."""

    _fields_ = (
        ("activation", ctypes.c_void_p * 4),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in _STATE),
        ("windows", ctypes.c_void_p * GATE_AND_IN),
        ("wide", ctypes.c_int64 * GATE_AND_IN),
        ("unfit", ctypes.c_int64 * GATE_AND_IN),
    )


class Arguments(NamedTuple):
    """What one call reads and writes: contiguous CPU tensors, with the names, shapes and types of `Work` in kernel.c."""

    activation: tuple[Tensor, Tensor, Tensor, Tensor]
    counted: Tensor
    offset: Tensor
    text: Tensor
    position: Tensor
    examples: int
    before: int
    window: int
    is_routed: bool
    state: tuple[Tensor, ...]
    """In the order of `_STATE`."""
    windows: tuple[Tensor, Tensor]


class Outcome(NamedTuple):
    """What one call says."""

    finite: bool
    unfit: tuple[bool, bool]
    """Whether a value of gate and of in did not fit its windows' float16."""


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


def reduce(library: ctypes.CDLL, arguments: Arguments) -> Outcome:
    """Fold a batch into a layer's state. Other threads run meanwhile."""

    def pointer(tensor: Tensor, kind: torch.dtype) -> Any:
        assert tensor.dtype == kind, (tensor.dtype, kind)
        assert tensor.is_contiguous()
        assert tensor.device.type == "cpu"
        return tensor.data_ptr()

    kinds = (
        torch.int64, torch.float64, torch.float64, torch.float32, torch.float32, torch.float32,
        torch.int32, torch.int32, torch.int64,
    )  # fmt: skip
    state = {name: pointer(tensor, kind) for name, tensor, kind in zip(_STATE, arguments.state, kinds, strict=True)}
    work = _Work(
        activation=(ctypes.c_void_p * 4)(*(pointer(tensor, torch.float32) for tensor in arguments.activation)),
        counted=pointer(arguments.counted, torch.bool),
        offset=pointer(arguments.offset, torch.int64),
        text=pointer(arguments.text, torch.int32),
        position=pointer(arguments.position, torch.int32),
        texts=len(arguments.text),
        neurons=arguments.activation[0].shape[1],
        examples=arguments.examples,
        before=arguments.before,
        window=arguments.window,
        is_routed=arguments.is_routed,
        **state,
        windows=(ctypes.c_void_p * GATE_AND_IN)(*(pointer(tensor, tensor.dtype) for tensor in arguments.windows)),
        wide=(ctypes.c_int64 * GATE_AND_IN)(*(tensor.dtype == torch.float32 for tensor in arguments.windows)),
    )
    returned = library.gluscope_reduce(ctypes.byref(work))
    return Outcome(returned != NOT_FINITE, (bool(work.unfit[0]), bool(work.unfit[1])))
