"""What a change costs: for each row of docs/incremental.md, texts tokenized, tokens forwarded, pages rendered, stages run."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from gluscope_assets.core.collect.shard_state import ShardState
from gluscope_assets.core.corpus import tokenize as corpus_module
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.pages import templates
from gluscope_assets.core.pages.layer_pages import LayerPages
from gluscope_assets.definitions import build_defs
from gluscope_assets.study.fingerprints import STAGES, recorded_fingerprint
from gluscope_assets_tests.commands.test_build import change
from gluscope_assets_tests.conftest import Workplace
from gluscope_assets_tests.support.tiny import LAYERS, WIDTH, write_checkpoint, write_tokenizer

DOCUMENT = Path(__file__).parents[1] / "docs" / "incremental.md"
ALL_PAGES = LAYERS * (WIDTH + 2)
"""Of the last checkpoint all neurons, of the first one two of each layer."""
BELOW_CORPUS = {"tokenized_corpus", "activation_shards", "quadrant_aggregates", "neuron_pages", "site"}


@dataclass
class Work:
    """What a build did."""

    tokenizations: int = 0
    tokens: int = 0
    pages: int = 0
    stages: set[str] = field(default_factory=set)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Counts what runs from here on, where it is done and not where it is reported."""
    work = Work()
    run, page, tokenize = ShardState._forward, LayerPages._page, corpus_module._tokenize

    def counted_forward(self: ShardState, forward: Any, batch: Any, *arguments: Any) -> None:
        work.tokens += len(batch.token)
        run(self, forward, batch, *arguments)

    def counted_page(self: LayerPages, *arguments: Any) -> Any:
        work.pages += 1
        return page(self, *arguments)

    def counted_tokenize(*arguments: Any) -> Any:
        work.tokenizations += 1
        return tokenize(*arguments)

    monkeypatch.setattr(ShardState, "_forward", counted_forward)
    monkeypatch.setattr(LayerPages, "_page", counted_page)
    monkeypatch.setattr(corpus_module, "_tokenize", counted_tokenize)
    return work


def tokens_of_changed_shards(before: TokenizedCorpus, after: TokenizedCorpus) -> int:
    """Tokens of the shards of `after` that `before` does not have, token by token, at the same place."""

    def texts_of(corpus: TokenizedCorpus, shard: int) -> list[tuple[int, int, tuple[int, ...]]]:
        numbers = [text for text in range(corpus.n_texts) if corpus.shards[text] == shard]
        return [(text, int(corpus.packs[text]), tuple(corpus.tokens_of(text).tolist())) for text in numbers]

    known = [texts_of(before, shard) for shard in range(before.n_shards)]
    found = [texts_of(after, shard) for shard in range(after.n_shards)]
    return sum(len(tokens) for shard in found if shard not in known for _, _, tokens in shard)


def changed_template(tiny: Workplace, patch: pytest.MonkeyPatch, name: str) -> None:
    folder = tiny.file.parent / "site"
    shutil.copytree(templates.template_folder(), folder)
    (folder / name).write_text((folder / name).read_text() + ("/* */" if name.startswith("static") else "<!-- -->"))
    patch.setattr(templates, "template_folder", lambda: folder)


def another_text(tiny: Workplace, patch: pytest.MonkeyPatch) -> None:
    (tiny.file.parent / "corpus" / "two.md").write_text("Something else entirely. " * 20)


def appended_texts(tiny: Workplace, patch: pytest.MonkeyPatch) -> None:
    (tiny.file.parent / "corpus" / "zebra.txt").write_text("The last text of all. " * 40)


def another_tokenizer(tiny: Workplace, patch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        write_tokenizer(tiny.file.parent / name, vocabulary=280)


def other_weights(tiny: Workplace, patch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tiny.file.parent / "second", seed=11)


def a_twin(tiny: Workplace, patch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny.file.parent / "second", tiny.file.parent / "twin")
    listed = yaml.safe_load(tiny.file.read_text())["model"]["checkpoints"]
    change(tiny, model={"checkpoints": [*listed, {"name": "twin", "path": "twin"}]})


def another_k(tiny: Workplace, patch: pytest.MonkeyPatch) -> None:
    change(tiny, collection={"examples": 2})


def another_window(tiny: Workplace, patch: pytest.MonkeyPatch) -> None:
    change(tiny, collection={"window_after": 2})


def another_selection(tiny: Workplace, patch: pytest.MonkeyPatch) -> None:
    pages = [{"checkpoints": "last", "neurons": 5}, {"checkpoints": "all", "neurons": 2}]
    change(tiny, site={"pages": pages})


def another_statistic(tiny: Workplace, patch: pytest.MonkeyPatch) -> None:
    stage = STAGES["quadrant_aggregates"]
    patch.setitem(STAGES, "quadrant_aggregates", replace(stage, number=f"{stage.number}-next"))


def another_page_template(tiny: Workplace, patch: pytest.MonkeyPatch) -> None:
    changed_template(tiny, patch, "templates/neuron.html")


def another_index_template(tiny: Workplace, patch: pytest.MonkeyPatch) -> None:
    changed_template(tiny, patch, "templates/index.html")


def another_style_sheet(tiny: Workplace, patch: pytest.MonkeyPatch) -> None:
    changed_template(tiny, patch, "static/site.css")


Change = Callable[[Workplace, pytest.MonkeyPatch], None]
CHANGED, ALL_OF_BOTH, ALL_OF_ONE, NOTHING = "changed shards", "all, twice", "all, once", "nothing"
LAYER_STAGES = {"neuron_weights", "activation_shards", "quadrant_aggregates", "neuron_pages"}
FROM_SHARDS = BELOW_CORPUS - {"tokenized_corpus"}
ROWS: dict[str, tuple[Change, bool, str, int, set[str]]] = {
    "the content of a text": (another_text, True, CHANGED, ALL_PAGES, BELOW_CORPUS),
    "texts appended to the corpus": (appended_texts, True, CHANGED, ALL_PAGES, BELOW_CORPUS),
    "the tokenizer": (another_tokenizer, True, ALL_OF_BOTH, ALL_PAGES, BELOW_CORPUS),
    "the weights of a checkpoint": (other_weights, False, ALL_OF_ONE, LAYERS * WIDTH, {*LAYER_STAGES, "site"}),
    # The new last one has all pages, and the one that was last keeps two a layer.
    "a checkpoint with the weights of another one": (a_twin, False, NOTHING, ALL_PAGES, {*LAYER_STAGES, "site"}),
    "K": (another_k, False, ALL_OF_BOTH, ALL_PAGES, FROM_SHARDS),
    "the window": (another_window, False, ALL_OF_BOTH, ALL_PAGES, FROM_SHARDS),
    "the page selection": (another_selection, False, NOTHING, LAYERS * 5, {"neuron_pages", "site"}),
    "the code of a statistic": (another_statistic, False, NOTHING, ALL_PAGES, {"quadrant_aggregates", "neuron_pages", "site"}),
    "the template of neuron pages": (another_page_template, False, NOTHING, ALL_PAGES, {"neuron_pages", "site"}),
    "a template around the pages": (another_index_template, False, NOTHING, 0, {"site"}),
    "a style sheet or script": (another_style_sheet, False, NOTHING, 0, {"site"}),
}


def test_every_row_of_the_document_is_tested() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows[0] == "change"
    assert rows[1:] == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_a_change_costs_what_the_document_says(tiny: Workplace, work: Work, monkeypatch: pytest.MonkeyPatch, row: str) -> None:
    make, tokenizes, forwarded, pages, stages = ROWS[row]
    before, runs = TokenizedCorpus.open(tiny.folder.corpus), tiny.runs()
    make(tiny, monkeypatch)
    assert tiny.build() == 0
    after = TokenizedCorpus.open(tiny.folder.corpus)
    changed = tokens_of_changed_shards(before, after)
    expected = {CHANGED: 2 * changed, ALL_OF_BOTH: 2 * after.n_tokens, ALL_OF_ONE: after.n_tokens, NOTHING: 0}
    assert (work.tokenizations, work.tokens, work.pages) == (int(tokenizes), expected[forwarded], pages)
    assert tiny.materialized(runs).keys() == stages
    if row == "texts appended to the corpus":
        assert 0 < changed < after.n_tokens / 2
    nothing = Work(work.tokenizations, work.tokens, work.pages)
    assert tiny.build() == 0
    assert Work(work.tokenizations, work.tokens, work.pages) == nothing, "a second build does nothing"


def statuses(workplace: Workplace) -> dict[str, set[str]]:
    """What the Dagster UI calls each asset, over all its partitions: FRESH, STALE or MISSING."""
    # The UI asks this class; no public one says it.
    from dagster._core.definitions.data_version import CachingStaleStatusResolver
    from dagster._core.loader import LoadingContextForTest

    definitions = build_defs([workplace.study])
    graph = definitions.resolve_asset_graph()
    found: dict[str, set[str]] = {}
    with workplace.instance as instance:
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        for key in graph.materializable_asset_keys:
            partitions = graph.get(key).partitions_def
            keys = partitions.get_partition_keys(dynamic_partitions_store=instance) if partitions else [None]
            found[key.path[-1]] = {resolver.get_status(key, partition).value for partition in keys}
    return found


def test_the_ui_shows_what_is_stale_and_nothing_else(tiny: Workplace) -> None:
    fresh = {stage: {"FRESH"} for stage in (*BELOW_CORPUS, "neuron_weights")} | {"published_site": {"MISSING"}}
    assert statuses(tiny) == fresh
    change(tiny, collection={"examples": 2})
    # What follows turns stale once the shards are made again: Dagster compares a stage with what it reads now.
    assert statuses(tiny) == fresh | {"activation_shards": {"STALE"}}
    assert tiny.build() == 0
    assert statuses(tiny) == fresh


def test_a_page_says_which_versions_it_was_made_from(tiny: Workplace) -> None:
    with tiny.instance as instance:
        records = instance.fetch_materializations(dg.AssetKey(["tiny", "neuron_pages"]), limit=100).records
    assert len(records) == 4
    for record in records:
        assert record.asset_materialization is not None
        key, _, layer = str(record.partition_key).partition("|")
        made_from = record.asset_materialization.metadata["made from"].value
        statistics = tiny.folder.aggregate(key, int(layer)) / "statistics.parquet"
        assert made_from["quadrant_aggregates"] == recorded_fingerprint(statistics)
        assert made_from["neuron_weights"] == recorded_fingerprint(tiny.folder.weights(key, int(layer)))
        assert made_from["tokenized_corpus"] == recorded_fingerprint(tiny.folder.corpus)
