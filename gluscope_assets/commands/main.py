"""The entry point of `gluscope`: which commands there are, and how each of them ends.

A command's arguments and its work are in the module that `COMMANDS` names. It is imported when the command runs or its own
help is asked for, so that `gluscope --help` waits neither for Dagster nor for polars, and modules of commands import what
they need at their top. The library is cyclopts, because it does both this and options with several names
(`--checkpoint a b`) by itself; typer, which comes with huggingface_hub, does neither.
"""

import os
import sys
from collections.abc import Iterator, Sequence

from cyclopts import App, CycloptsError, Parameter

from gluscope_assets import __version__
from gluscope_assets.core.errors import InputError

COMMANDS = {
    "build": ("build", "Build what is stale of a study, up to its site."),
    "serve": ("serve", "Serve a study's site on 127.0.0.1."),
    "ui": ("ui", "Start the Dagster UI and its daemon over the same runs and storage."),
    "publish": ("publish", "Publish a study's site where its publish says."),
    "import": ("import_table", "Take a table of the paper as a checkpoint's, for gluscope serve to show."),
    "export": ("export", "Write a study's tables for others to read."),
    "studies": ("studies", "List the studies with their checkpoints, pages and status."),
    "inspect": ("inspect_model", "Say what gated MLPs a model has and what a study of it would cost."),
}
"""Of each command its module, with a function of the same name, and what help says of it."""

app = App(
    name="gluscope",
    help="What each neuron of a gated MLP does.",
    version=f"gluscope {__version__}",
    help_format="plaintext",
    help_formatter="plain",
    # No `--no-roll-back` beside `--roll-back`; and the last one counts, so that an alias may be overruled.
    default_parameter=Parameter(negative=(), allow_repeating=True),
    # How a command ends is said below.
    print_error=False,
    exit_on_error=False,
    verbose=False,
    suppress_keyboard_interrupt=False,
    result_action="return_none",
)
for command, (module, sentence) in COMMANDS.items():
    app.command(f"{__package__}.{module}:{module}", name=command, help=sentence)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for bad input, 1 for a check that failed, 130 if it was interrupted."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    # Threads that spin while they wait slow a busy machine down many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The bars of other libraries would tear ours apart.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        if not given:
            raise InputError(f"Name a command: {', '.join(COMMANDS)}; gluscope --help says what they do.")
        app(given)
    except BaseException as error:
        for cause in _causes(error):
            if isinstance(cause, CycloptsError):
                asked = " ".join(("gluscope", *(cause.command_chain or ()), "--help"))
                print(f"gluscope: {cause} See {asked}.", file=sys.stderr)
                return 2
            if isinstance(cause, InputError):
                print(f"gluscope: {cause}", file=sys.stderr)
                return 2
            # By name, because importing Dagster takes a second.
            if type(cause).__name__ == "DagsterAssetCheckFailedError":
                print(f"gluscope: {cause}", file=sys.stderr)
                return 1
            if isinstance(cause, KeyboardInterrupt) or type(cause).__name__ == "DagsterExecutionInterruptedError":
                print("\nStopped. What was finished is kept.", file=sys.stderr)
                return 130
        raise
    return 0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    # Dagster's interrupt handling can close a chain of causes to a circle.
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
