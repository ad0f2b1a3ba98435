"""The source of a study's texts, which is only observed."""

from collections.abc import Iterator

import dagster as dg

from gluscope_assets.core.corpus.tokenize import source_version
from gluscope_assets.orchestration.records import OWNERS
from gluscope_assets.study.study import Study


def build_corpus_source(study: Study) -> dg.AssetsDefinition:
    """The observable source of a study's texts."""

    key = dg.AssetKey([study.name, "corpus_source"])

    # The plural decorator, because the singular one takes neither owners nor kinds.
    @dg.multi_observable_source_asset(
        name=f"{study.name}_corpus_source",
        specs=[
            dg.AssetSpec(
                key,
                group_name="corpus",
                kinds={"python"},
                owners=OWNERS,
                description="Where the texts come from. Its data version is the hash of their content.",
                metadata={"source": study.corpus.source, "path": str(study.corpus.path or "")},
            )
        ],
    )
    def corpus_source() -> Iterator[dg.ObserveResult]:
        yield dg.ObserveResult(asset_key=key, data_version=dg.DataVersion(source_version(study.corpus)))

    return corpus_source
