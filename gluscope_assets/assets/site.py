"""The site around the pages of all checkpoints."""

import dagster as dg

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.orchestration.automation import WHEN_INPUTS_CHANGE
from gluscope_assets.orchestration.records import attributes, data_version, metadata_of, recorded_shards
from gluscope_assets.orchestration.resources import Storage
from gluscope_assets.orchestration.retries import tried_again_if_transient
from gluscope_assets.study.fingerprints import provenance, rendered_fingerprints
from gluscope_assets.study.registry import retired_keys
from gluscope_assets.study.stages.site import make_site
from gluscope_assets.study.study import Study


def build_site(study: Study) -> dg.AssetsDefinition:
    """What surrounds the pages of all checkpoints."""

    @dg.asset(
        **attributes(study, "site", "site", {"python", "html"}),
        deps=[[study.name, "neuron_pages"]],
        automation_condition=WHEN_INPUTS_CHANGE,
        description="The index and what all pages share. Any static server can serve the folder, and so can file://.",
    )
    @tried_again_if_transient
    def site(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult[None]:
        folder, checkpoints = storage.of(study), [resolve_checkpoint(options) for options in study.model.checkpoints]
        rendered = rendered_fingerprints(study, folder, checkpoints)
        if not rendered:
            raise InputError(f"{folder.site} has no neuron page yet; run gluscope build.")
        footer = provenance(study, "site", {"neuron_pages": rendered})
        report = make_site(study, folder, checkpoints, retired_keys(folder), list(recorded_shards(study, context.instance)))
        return dg.MaterializeResult(data_version=data_version([footer["fingerprint"]]), metadata=metadata_of(footer, report))

    return site
