"""`gluscope serve`: a study's site, and every page that it lacks, on this machine.

How files travel and how pages are made on demand belong to `core/serve`.
"""

from contextlib import ExitStack, closing
from typing import Annotated

from cyclopts import Parameter

from gluscope_assets.commands.arguments import StudyName, named_study
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.serve.on_demand import OnDemand
from gluscope_assets.core.serve.server import PORT, open_server
from gluscope_assets.study.sources import all_sources


def serve(
    *, study_name: StudyName = "demo", port: Annotated[int, Parameter(help="Of this machine; 0 takes a free one.")] = PORT
) -> None:
    """Serve the site until interrupted."""
    study, folder = named_study(study_name)
    sources = all_sources(study, folder)
    if not sources and not (folder.site / "index.html").is_file():
        raise InputError(f"{folder.site} holds no site yet; run gluscope build --study {study_name} first.")
    with ExitStack() as stack:
        on_demand = stack.enter_context(closing(OnDemand(folder.site, sources))) if sources else None
        server = stack.enter_context(open_server(folder.site, port, on_demand))
        print(f"{study.title}: {server.address} (stop with Ctrl-C)", flush=True)
        try:
            server.wait()
        except KeyboardInterrupt:
            print()
