"""`gluscope studies`: a table with a row for each checkpoint of each study."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from gluscope_assets.commands.instance import open_instance
from gluscope_assets.commands.plan import Planner
from gluscope_assets.core.corpus.tokenize import source_version
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.core.paths import StudyFolder, default_home, layer_neuron_pages
from gluscope_assets.study.registry import with_registry
from gluscope_assets.study.study import Study, find_studies


def studies() -> None:
    """Print the table. A study whose input is missing has a row that says so."""
    table = Table("study", "checkpoint", "key", "layers", "pages", "status", box=None, header_style="bold")
    for name, given in find_studies().items():
        folder = StudyFolder(default_home() / name)
        study = with_registry(given, folder)
        layers = str(len(study.model.layer_numbers))
        try:
            for checkpoint, key, pages, status in _checkpoints(study, folder):
                table.add_row(name, checkpoint, key, layers, f"{pages:,}", status)
        except InputError as error:
            table.add_row(name, "", "", layers, "", str(error))
    Console().print(table)


def _checkpoints(study: Study, folder: StudyFolder) -> Iterator[tuple[str, str, int, str]]:
    """(name, key, pages, status) of each checkpoint."""
    checkpoints = [resolve_checkpoint(options) for options in study.model.checkpoints]
    if not folder.root.is_dir():
        for checkpoint in checkpoints:
            yield checkpoint.name, checkpoint.key, 0, "not built"
        return
    with open_instance() as instance:
        layers = study.model.layer_numbers
        planner = Planner(study, folder, instance, source_version(study.corpus), checkpoints)
        for checkpoint in checkpoints:
            plan = planner.plan([checkpoint], layers)
            stale = sorted({stage for run in plan.layer_runs for stage in run.stages})
            pages = sum(len(layer_neuron_pages(folder.site, checkpoint.key, layer)) for layer in layers)
            yield checkpoint.name, checkpoint.key, pages, f"to do: {', '.join(stale)}" if stale else "fresh"
