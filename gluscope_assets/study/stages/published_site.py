"""The site in the public place that the study's `publish` names."""

from typing import TYPE_CHECKING

from gluscope_assets.core.paths import StudyFolder
from gluscope_assets.core.publishing import publish, roll_back
from gluscope_assets.core.publishing.contents import Publication, Report

if TYPE_CHECKING:
    from gluscope_assets.study.study import Study


def make_published_site(study: "Study", folder: StudyFolder, back: bool, report: Report) -> Publication:
    """Publish the site, or put `back` what was published before. `report` takes a line for the log."""
    if back:
        return roll_back(study.publish, folder.publishing, report)
    return publish(folder.site, study.publish, folder.publishing, report)
