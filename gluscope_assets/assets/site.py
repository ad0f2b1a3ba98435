"""The site around the pages of all checkpoints."""

import dagster as dg

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.orchestration.records import recorded_shards, result_of
from gluscope_assets.orchestration.resources import Storage
from gluscope_assets.orchestration.stage_assets import stage_asset
from gluscope_assets.study.fingerprints import provenance, rendered_fingerprints
from gluscope_assets.study.registry import retired_keys
from gluscope_assets.study.stages.site import make_site
from gluscope_assets.study.study import Study


def build_site(study: Study) -> dg.AssetsDefinition:
    """What surrounds the pages of all checkpoints."""

    @stage_asset(study, group="site", kinds={"python", "html"}, deps=["neuron_pages"])
    def site(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult[None]:
        """The index and what all pages share. Any static server can serve the folder, and so can file://."""
        folder, checkpoints = storage.of(study), [resolve_checkpoint(options) for options in study.model.checkpoints]
        rendered = rendered_fingerprints(study, folder, checkpoints)
        if not rendered:
            raise InputError(f"{folder.site} has no neuron page yet; run gluscope build.")
        footer = provenance(study, "site", {"neuron_pages": rendered})
        report = make_site(study, folder, checkpoints, retired_keys(folder), list(recorded_shards(study, context.instance)))
        return result_of(footer, report)

    return site
