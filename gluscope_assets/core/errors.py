"""The one exception that users are meant to read. Programming errors keep Python's own exceptions."""


class InputError(ValueError):
    """Bad input: one sentence that names the file, field or model part and says what to do."""


class OutOfMemory(InputError):
    """A device has no memory left for the least that can be done at once. It may have some later: others use it too."""


def first_line(error: Exception) -> str:
    """What an error of another library says first; its type if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
