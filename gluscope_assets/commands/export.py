"""`gluscope export`: a study's tables as a dataset with its card, or as the paper's table.

What the files hold belongs to `core/exchange`.
"""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from gluscope_assets.commands.arguments import StudyName, named_study
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.exchange.dataset import write_dataset
from gluscope_assets.core.exchange.paper_schema import export_paper
from gluscope_assets.study.sources import all_sources


def export(
    format: Annotated[Literal["dataset", "paper"], Parameter(help="A dataset with its card, or the paper's table.")],
    target: Annotated[Path, Parameter(help="The dataset's folder, or the Parquet file.")],
    /,
    *,
    study_name: StudyName = "demo",
    checkpoint: Annotated[str | None, Parameter(help="Of the paper's table, a name or key (default: the last).")] = None,
    license: Annotated[str, Parameter(help="Of the dataset, such as mit.")] = "unknown",
) -> None:
    """Write the dataset, or the paper's table of one checkpoint."""
    study, folder = named_study(study_name)
    sources = all_sources(study, folder)
    if not sources:
        raise InputError(f"{study.name} has no tables yet; run gluscope build --study {study_name} first.")
    if format == "dataset":
        write_dataset(sources, target, license)
    else:
        names = dict(sources[0].site_map.checkpoints)
        wanted = checkpoint or sources[-1].checkpoint_key
        aggregates = [source.aggregate for source in sources if wanted in (source.checkpoint_key, names[source.checkpoint_key])]
        if not aggregates:
            raise InputError(f"{study.name} has no tables of {wanted}; it has those of {', '.join(names.values())}.")
        export_paper(aggregates, target)
    print(f"Wrote {target}.")
