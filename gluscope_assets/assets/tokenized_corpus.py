"""The corpus: its source, which is only observed, and the tokenized texts."""

from collections.abc import Iterator

import dagster as dg

from gluscope_assets.core.corpus.tokenize import source_version, tokenize_corpus
from gluscope_assets.core.model.checkpoint import resolve_checkpoint, tokenizer_hash
from gluscope_assets.orchestration.automation import WHEN_INPUTS_CHANGE
from gluscope_assets.orchestration.records import OWNERS, attributes, column_schema, data_version, sample_rows, size_of
from gluscope_assets.orchestration.resources import ProgressDisplay, Storage
from gluscope_assets.orchestration.retries import tried_again_if_transient
from gluscope_assets.study.fingerprints import provenance
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


def build_tokenized_corpus(study: Study) -> dg.AssetsDefinition:
    """The texts as tokens, cut into packs and shards."""

    @dg.asset(
        **attributes(study, "tokenized_corpus", "corpus", {"python", "parquet"}),
        deps=[[study.name, "corpus_source"]],
        automation_condition=WHEN_INPUTS_CHANGE,
        description="One row a text: its source document and its tokens. The cut into packs is the unit of all later work.",
    )
    @tried_again_if_transient
    def tokenized_corpus(
        context: dg.AssetExecutionContext, storage: Storage, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        tokenizer = resolve_checkpoint(study.model.checkpoints[0])
        inputs = {"source": source_version(study.corpus), "tokenizer": tokenizer_hash(tokenizer)}
        footer = provenance(study, "tokenized_corpus", inputs)
        path = storage.of(study).corpus
        with progress.show(context, "tokenized corpus", "documents") as show:
            corpus = tokenize_corpus(study.corpus, tokenizer, path, footer, show)
        return dg.MaterializeResult(
            data_version=data_version([footer["fingerprint"]]),
            metadata={
                "fingerprint": str(footer["fingerprint"]),
                "texts": corpus.n_texts,
                "tokens": corpus.n_tokens,
                "counted tokens": corpus.n_counted,
                "shards": corpus.n_shards,
                "bytes": size_of(path),
                **show.metadata(),
                "path": dg.MetadataValue.path(path),
                "dagster/row_count": corpus.n_texts,
                "dagster/column_schema": column_schema(path),
                "rows": sample_rows(path, ["text", "document", "start", "token"]),
            },
        )

    return tokenized_corpus
