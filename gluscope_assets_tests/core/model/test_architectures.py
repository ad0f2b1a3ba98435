"""End to end on tiny instances of each kind of architecture: collect, merge, verify, weights, pages, against brute force."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from gluscope_assets.core.collect.job import Collection, collect
from gluscope_assets.core.collect.shards import merge_shards
from gluscope_assets.core.collect.verify import verify_aggregate
from gluscope_assets.core.corpus.decoder import TokenDecoder
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.corpus.tokenize import tokenize_corpus
from gluscope_assets.core.files import write_parquet
from gluscope_assets.core.model.anatomy import look_through
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.core.model.gated_mlp import Stack
from gluscope_assets.core.model.inspection import inspect_checkpoint
from gluscope_assets.core.model.weights import Fold, NeuronVectors, Unembedding, weights_table, write_neuron_weights
from gluscope_assets.core.options import CheckpointOptions, CollectionOptions, CorpusOptions, PageSelection
from gluscope_assets.core.pages.layer_pages import LayerPages
from gluscope_assets.core.pages.layer_source import LayerSource
from gluscope_assets.core.pages.rendering import render_neuron_pages
from gluscope_assets.core.pages.shown_texts import ShownTexts
from gluscope_assets.core.pages.site_map import SiteMap
from gluscope_assets.core.pages.vocabulary import Vocabulary
from gluscope_assets.core.site.links import broken_links
from gluscope_assets.core.site.site import render_site
from gluscope_assets.core.tables.aggregate import NO_EXPERT, Aggregate, write_aggregate
from gluscope_assets_tests.support.reference import (
    ModularExperts,
    assert_agrees,
    brute_force,
    collect_merged,
    corpus_of,
    recording,
)
from gluscope_assets_tests.support.tiny import TEXTS, VOCABULARY, write_corpus, write_tokenizer
from gluscope_assets_tests.support.zoo import tiny_config

OPTIONS = CollectionOptions(examples=2, window_before=4, window_after=2, sample_positions=40)

ARCHITECTURES: dict[str, tuple[str, Stack | None]] = {
    "dense, separate projections": ("llama", None),
    "dense, one fused projection": ("phi3", None),
    "experts in one parameter": ("mixtral", None),
    "experts and a shared expert": ("qwen2_moe", None),
    "experts beside a dense MLP of another width": ("gemma4", None),
    "encoder only": ("modernbert", None),
    "encoder of two stacks": ("t5", "encoder"),
    "decoder of two stacks": ("t5", "decoder"),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_from_texts_to_pages(tmp_path: Path, name: str) -> None:
    model_type, stack = ARCHITECTURES[name]
    config = tiny_config(model_type)
    for part in (config, config.get_text_config(decoder=True)):
        part.vocab_size = part.vocab_size_per_layer_input = VOCABULARY
    torch.manual_seed(0)
    heads = {"t5": AutoModelForSeq2SeqLM, "modernbert": AutoModelForMaskedLM}
    heads.get(model_type, AutoModelForCausalLM).from_config(config).save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    checkpoint = resolve_checkpoint(CheckpointOptions(name="tiny", path=tmp_path / "model"))
    texts = {file: TEXTS[file][:120] for file in ("two.md", "three.py", "four.txt")}
    source = CorpusOptions(
        source="folder", path=write_corpus(tmp_path / "texts", texts), text_tokens=16, pack_tokens=40, shard_packs=2
    )
    corpus = tokenize_corpus(source, checkpoint, tmp_path / "texts.parquet", {})
    found = inspect_checkpoint(checkpoint, stack)
    layer = found.layers[-1]

    # Activations, each against brute force over what the taps gave.
    collection = Collection(
        checkpoint=checkpoint, dtype="float32", corpus=corpus.path, layers=(layer,), model_layers=found.layers, stack=stack,
        options=OPTIONS, root=tmp_path / "shards", provenance={"fingerprint": "end to end"},
    )  # fmt: skip
    with recording(layer, corpus) as recorded:
        report = collect(collection, ["cpu"])
    assert report.tokens == corpus.n_tokens
    merged = merge_shards(tmp_path / "shards", layer, tmp_path / "aggregate", {})
    assert_agrees(merged, brute_force(corpus, recorded, OPTIONS), recorded, corpus)
    assert not any(verify_aggregate(tmp_path / "aggregate", corpus, OPTIONS).values())
    groups = [group for group in found.groups if layer in group.layers]
    assert merged.neurons == sum(group.width * (group.experts or 1) for group in groups)
    assert set(merged.mlp) == {group.mlp for group in groups}

    # Weights name the same neurons.
    rows = write_neuron_weights(checkpoint, [layer], lambda _: tmp_path / "weights.parquet", {}, stack)[layer]
    assert rows["mlp"].to_pylist() == merged.mlp.tolist()
    assert rows["expert"].fill_null(NO_EXPERT).to_pylist() == merged.expert.tolist()
    assert rows["index"].to_pylist() == merged.index.tolist()

    rendered(tmp_path, merged, checkpoint.key, layer, corpus, TokenDecoder.from_folder(checkpoint.folder))


def test_experts_that_are_modules(tmp_path: Path) -> None:
    """No model of transformers keeps experts as modules any more; a model of one's own may."""
    model = ModularExperts(seed=0)
    corpus = corpus_of([[1 + (7 * text + 3 * place) % 29 for place in range(9 + text)] for text in range(6)], shard_packs=1)
    with recording(1, corpus) as recorded:
        merged = collect_merged(model, corpus, OPTIONS, tmp_path / "shards", 1)
    assert_agrees(merged, brute_force(corpus, recorded, OPTIONS), recorded, corpus)
    write_aggregate(merged, tmp_path / "aggregate", {"activation": "silu", "dtype": "float32"})
    assert not any(verify_aggregate(tmp_path / "aggregate", corpus, OPTIONS).values())
    tables, first = [], 0
    tokens = model.embed_tokens.weight.detach()
    head = Unembedding(tokens, Fold(torch.ones(tokens.shape[1]), centres=False), 1.0, {})
    for mlp in (mlp for mlp in look_through(model).mlps if mlp.layer == 1):
        read = {part.parameter: model.get_parameter(part.parameter).detach() for part in mlp.projections}
        gate, in_ = (part.vectors(read[part.parameter], "outputs") for part in (mlp.gate, mlp.in_))
        vectors = NeuronVectors(gate, in_, mlp.out.vectors(read[mlp.out.parameter], "inputs"))
        tables.append(weights_table(mlp, first, vectors, tokens, head))
        first += mlp.width
    write_parquet(pa.concat_tables(tables), tmp_path / "weights.parquet", {})
    write_tokenizer(tmp_path)
    rendered(tmp_path, merged, "modular-0000000", 1, corpus, TokenDecoder.from_folder(tmp_path))


def rendered(folder: Path, merged: Aggregate, key: str, layer: int, corpus: TokenizedCorpus, decoder: TokenDecoder) -> None:
    """Render the tables in `folder`: pages say which expert, over how many positions, and nothing that is not a number."""
    site_map = SiteMap(
        study="tiny", title="Tiny", model="tiny", corpus="texts", checkpoints=((key, "tiny"),),
        layers=((layer, merged.neurons),), pages=(PageSelection(checkpoints="last", neurons="all"),),
    )  # fmt: skip
    site = folder / "site"
    source = LayerSource(
        key, layer, folder / "aggregate", folder / "weights.parquet", site_map, folder / "texts.parquet", folder
    )
    pages = render_neuron_pages(site, LayerPages(source, ShownTexts(corpus), Vocabulary(decoder)))
    render_site(site, site_map)
    assert pages.pages == merged.neurons
    assert broken_links(site) == []
    for neuron in np.linspace(0, merged.neurons - 1, 7).astype(int):
        page = (site / key / f"{layer:02d}" / f"{neuron}.html").read_text()
        shown = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
        assert not re.search(r"\bnan\b", shown, re.IGNORECASE)
        if merged.expert[neuron] != NO_EXPERT:
            assert f"neuron {merged.index[neuron]} of expert {merged.expert[neuron]}" in shown
            if merged.routed[neuron] < merged.positions:
                assert f"{merged.routed[neuron]} positions of texts that are routed to its expert" in shown
        else:
            assert "routed" not in shown
            assert (f"neuron {merged.index[neuron]} of {merged.mlp[neuron]}" in shown) == (len(set(merged.mlp)) > 1)
