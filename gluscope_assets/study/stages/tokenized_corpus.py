"""The texts as tokens, cut into packs and shards."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gluscope_assets.core.corpus.tokenize import tokenize_corpus
from gluscope_assets.core.progress import Progress
from gluscope_assets.core.reports import Metadata, StageReport, size_of

if TYPE_CHECKING:
    from gluscope_assets.core.model.checkpoint import Checkpoint
    from gluscope_assets.study.study import Study


def make_tokenized_corpus(
    study: "Study", path: Path, tokenizer: "Checkpoint", provenance: Mapping[str, object], progress: Progress
) -> StageReport:
    """Write the study's corpus to `path`, tokenized with a checkpoint's tokenizer. Progress counts documents."""
    corpus = tokenize_corpus(study.corpus, tokenizer, path, provenance, progress)
    metadata: Metadata = {
        "texts": corpus.n_texts,
        "tokens": corpus.n_tokens,
        "counted tokens": corpus.n_counted,
        "shards": corpus.n_shards,
        "bytes": size_of(path),
        "path": path,
    }
    return StageReport(metadata, path, ("text", "document", "start", "token"))
