"""The texts as tokens."""

import dagster as dg

from gluscope_assets.core.corpus.tokenize import source_version
from gluscope_assets.core.model.checkpoint import resolve_checkpoint, tokenizer_hash
from gluscope_assets.orchestration.records import result_of
from gluscope_assets.orchestration.resources import ProgressDisplay, Storage
from gluscope_assets.orchestration.stage_assets import stage_asset
from gluscope_assets.study.fingerprints import provenance
from gluscope_assets.study.stages.tokenized_corpus import make_tokenized_corpus
from gluscope_assets.study.study import Study


def build_tokenized_corpus(study: Study) -> dg.AssetsDefinition:
    """The texts as tokens, cut into packs and shards."""

    @stage_asset(study, group="corpus", kinds={"python", "parquet"}, deps=["corpus_source"])
    def tokenized_corpus(
        context: dg.AssetExecutionContext, storage: Storage, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        """One row a text: its source document and its tokens. The cut into packs is the unit of all later work."""
        tokenizer = resolve_checkpoint(study.model.checkpoints[0])
        inputs = {"source": source_version(study.corpus), "tokenizer": tokenizer_hash(tokenizer)}
        footer = provenance(study, "tokenized_corpus", inputs)
        with progress.show(context, "tokenized corpus", "documents") as show:
            report = make_tokenized_corpus(study, storage.of(study).corpus, tokenizer, footer, show)
        return result_of(footer, report, show)

    return tokenized_corpus
