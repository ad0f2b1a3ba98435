"""The copy of the site that the public sees."""

import dagster as dg

from gluscope_assets.orchestration.resources import Storage
from gluscope_assets.orchestration.stage_assets import stage_asset
from gluscope_assets.study.stages.published_site import make_published_site
from gluscope_assets.study.study import Study


class PublishConfig(dg.Config):
    """What a person may choose when publishing."""

    roll_back: bool = False
    """Put back what was published before, instead of the site."""


def build_published_site(study: Study) -> dg.AssetsDefinition:
    """The site in its public place. It has no automation: a person decides."""

    @stage_asset(study, group="site", kinds={"html"}, deps=["site"], automation_condition=None)
    def published_site(
        context: dg.AssetExecutionContext, config: PublishConfig, storage: Storage
    ) -> dg.MaterializeResult[None]:
        """The site in the public place that the study's publish names. Started by a person."""
        publication = make_published_site(study, storage.of(study), config.roll_back, context.log.info)
        return dg.MaterializeResult(data_version=dg.DataVersion(publication.identity), metadata=publication.metadata())

    return published_site
