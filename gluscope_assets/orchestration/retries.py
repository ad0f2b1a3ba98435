"""Failures that pass by themselves, and are tried again, told from those that stay.

What belongs here: the judgement of errors, and the decorator that acts on it in an asset's body. What does not: whom a
failed run tells (`alerts`), what a stage does with less memory (`core/collect/reduction.py`), and runs whose process was
killed, which Dagster's run monitoring ends and its run retries start again (`deployment/`).
"""

import errno
import functools
from collections.abc import Callable, Iterator
from typing import Concatenate, ParamSpec, TypeVar

import dagster as dg

from gluscope_assets.core.errors import InputError, first_line
from gluscope_assets.core.processes import end_with_parent

WAITS = (30.0, 120.0, 600.0)
"""Seconds before the second, third and fourth try of a stage; the fourth is the last."""

COMMAND_TAG = "gluscope/command"
"""The tag of a run that a command started and waits for."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Body = Callable[Concatenate[dg.AssetExecutionContext, Parameters], Result]


# Transient and permanent

TRANSIENT_CLASSES = {
    "builtins.ConnectionError",
    "builtins.TimeoutError",
    "builtins.BlockingIOError",
    "concurrent.futures.process.BrokenProcessPool",
    "gluscope_assets.core.errors.OutOfMemory",
    "http.client.IncompleteRead",
    "httpx.TransportError",
    "httpx2.TransportError",
    "requests.exceptions.ChunkedEncodingError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
    "socket.gaierror",
    "torch.OutOfMemoryError",
    "urllib3.exceptions.ProtocolError",
    "urllib3.exceptions.TimeoutError",
}
"""By name, so that nothing is imported in order to compare. A subclass counts as its base."""

PERMANENT_CLASSES = {"huggingface_hub.errors.OfflineModeIsEnabled", "requests.exceptions.SSLError"}
"""What is derived from a transient class and yet stays as it is until a person does something."""

TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}
"""Answers of a web server that is busy or broken, not of one that refuses."""

TRANSIENT_ERRNOS = {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.ESTALE}
"""Network and network file systems, where Python has no class for them."""

TRANSIENT_TEXTS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "busy or unavailable",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "uncorrectable ECC error",
    "unspecified launch failure",
    "the launch timed out",
    "system not yet initialized",
)
"""In the messages of a RuntimeError: CUDA has no classes for what a busy or ailing GPU says. Access to wrong memory is not
among them, because that is an error of the program."""


def is_transient(error: BaseException) -> bool:
    """Whether the same work may well succeed later. What is not known to pass is permanent.

    An InputError is permanent unless it was raised from something transient, such as a Hub that cannot be reached.
    """
    causes = list(_chain(error))
    return not any(_names(cause) & PERMANENT_CLASSES for cause in causes) and any(_passes(cause) for cause in causes)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from on purpose; what was merely being handled says nothing about it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        # urllib keeps the cause as an attribute.
        reason = getattr(error, "reason", None)
        error = error.__cause__ or (reason if isinstance(reason, BaseException) else None)


def _passes(error: BaseException) -> bool:
    if _names(error) & TRANSIENT_CLASSES:
        return True
    if isinstance(error, RuntimeError):
        return any(text in str(error) for text in TRANSIENT_TEXTS)
    # Of urllib, and of the libraries that keep the answer.
    status = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return isinstance(error, OSError) and (error.errno in TRANSIENT_ERRNOS or status in TRANSIENT_STATUSES)


def _names(error: BaseException) -> set[str]:
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}


def tried_again_if_transient(body: Body[Parameters, Result]) -> Body[Parameters, Result]:
    """Let an asset's body be tried again, after growing waits, when what failed may pass; end the run when it will not.

    While a stage waits it holds no slot of a pool. The step ends with its run, whatever ended that. A run of the command line
    fails at once: a person waits for it and sees why.
    """

    @functools.wraps(body)
    def tried(context: dg.AssetExecutionContext, /, *arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        # A killed run must not keep the GPU busy.
        end_with_parent()
        try:
            return body(context, *arguments, **options)
        except Exception as error:
            tries = context.retry_number
            if is_transient(error) and tries < len(WAITS) and COMMAND_TAG not in context.run.tags:
                wait, reason = WAITS[tries], first_line(error)
                context.log.warning(f"Try {tries + 1} of {len(WAITS) + 1} failed and may pass, next in {wait:.0f} s: {reason}")
                raise dg.RetryRequested(max_retries=len(WAITS), seconds_to_wait=wait) from error
            if isinstance(error, InputError):
                raise dg.Failure(str(error), allow_retries=False) from error
            raise

    return tried
