"""How long stages report progress: a call with (done, total). How it is shown belongs to the caller."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total) in the unit of the stage: tokens, texts, neurons or pages."""


def no_progress(done: int, total: int) -> None:
    """Show nothing."""
