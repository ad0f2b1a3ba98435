"""`gluscope publish`: a study's site to the place that its `publish` names, in a run like one that is started in the UI.

How files get there belongs to `core/publishing`.
"""

from typing import Annotated

import dagster as dg
from cyclopts import Parameter
from rich.filesize import decimal

from gluscope_assets.commands.arguments import StudyName, named_study
from gluscope_assets.commands.instance import execute_job, open_instance
from gluscope_assets.definitions import build_defs
from gluscope_assets.orchestration.jobs import publish_job


def publish(
    *,
    study_name: StudyName = "demo",
    roll_back: Annotated[bool, Parameter(help="Put back what was published before, instead.")] = False,
) -> None:
    """Publish the site, or roll back, and say what was uploaded."""
    study, _ = named_study(study_name)
    job = build_defs([study]).resolve_job_def(publish_job(study).name)
    operation = dg.AssetKey([study.name, "published_site"]).to_python_identifier()
    with open_instance() as instance:
        result = execute_job(job, instance, config={"ops": {operation: {"config": {"roll_back": roll_back}}}})
    (event,) = result.asset_materializations_for_node(operation)
    report = {name: value.value for name, value in event.metadata.items()}
    print(
        f"{report['target']}: publication {report['publication']}, {report['files']:,} files, "
        f"{report['files uploaded']:,} of them uploaded ({decimal(int(str(report['bytes uploaded'])))})"
    )
