"""`gluscope ui`: Dagster's webserver and daemon, in place of this process."""

import os
import sys
from typing import Annotated

from cyclopts import Parameter

from gluscope_assets.commands.instance import dagster_home
from gluscope_assets.core.paths import HOME_VARIABLE, default_home
from gluscope_assets.core.serve.server import HOST


def ui(*, port: Annotated[int, Parameter(help="Of this machine.")] = 3000) -> None:
    """Become Dagster's webserver and daemon."""
    home = default_home()
    environment = {**os.environ, HOME_VARIABLE: str(home), "DAGSTER_HOME": str(dagster_home(home))}
    # Dagster says on each start that its `dev` command is superseded by one that needs a project of another layout.
    environment["PYTHONWARNINGS"] = "ignore"
    command = ["-m", "dagster", "dev", "-m", "gluscope_assets.definitions", "-h", HOST, "-p", str(port)]
    print(f"Dagster UI: http://{HOST}:{port}/ (stop with Ctrl-C)", flush=True)
    # In place of this process, so that Ctrl-C reaches Dagster and it ends what it started.
    os.execve(sys.executable, [sys.executable, *command], environment)
