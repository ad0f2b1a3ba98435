"""The paper's tables: exports of the real model equal its published table, imports give it back and can be browsed."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from gluscope_assets.core.collect.window_filling import fill_windows, write_windows
from gluscope_assets.core.corpus.decoder import TokenDecoder
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.exchange.paper_schema import export_paper, import_paper
from gluscope_assets.core.files import read_provenance
from gluscope_assets.core.model.activation import activation_function
from gluscope_assets.core.model.anatomy import look_through
from gluscope_assets.core.model.checkpoint import Checkpoint, resolve_checkpoint
from gluscope_assets.core.model.loading import load_model
from gluscope_assets.core.model.weights import write_neuron_weights
from gluscope_assets.core.options import CheckpointOptions, CollectionOptions, PageSelection
from gluscope_assets.core.pages.explorer_columns import write_columns
from gluscope_assets.core.pages.formats import format_count, format_number, signed
from gluscope_assets.core.pages.layer_pages import LayerPages
from gluscope_assets.core.pages.layer_source import LayerSource
from gluscope_assets.core.pages.shown_texts import ShownTexts
from gluscope_assets.core.pages.site_map import SiteMap
from gluscope_assets.core.pages.vocabulary import Vocabulary
from gluscope_assets.core.paths import LayerTables
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, column, oriented_quadrant
from gluscope_assets.core.tables.aggregate import tables, write_aggregate
from gluscope_assets.core.tables.orientation import scan_neurons
from gluscope_assets.core.tables.statistics import scan_statistics
from gluscope_assets_tests.conftest import Workplace
from gluscope_assets_tests.core.conftest import DATA, LAYERS, NEURONS, OPTIONS, TOKENS, carried
from gluscope_assets_tests.support.reference import TableModel, collect_merged, corpus_of
from gluscope_assets_tests.support.zoo import tiny_model

needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"the real model and its oracle are not at {DATA}")
PAPER = {"gate": "hook_pre", "in": "hook_pre_linear", "act": "swish", "post": "hook_post"}
RAW, ORIENTED = DATA / "oracle" / "neuron_activations.parquet", DATA / "oracle" / "neuron_activations_oriented.parquet"
SMALL = CollectionOptions(examples=3, window_before=4, window_after=2, sample_positions=0)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return resolve_checkpoint(CheckpointOptions(name="stories260k", path=DATA / "stories260K"))


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> PreTrainedModel:
    return load_model(checkpoint, "float32", "cpu")


@pytest.fixture(scope="module")
def weights(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("weights")
    files = [folder / f"layer-{layer:02d}.parquet" for layer in range(LAYERS)]
    write_neuron_weights(checkpoint, range(LAYERS), lambda layer: files[layer], {})
    return files


@pytest.fixture(scope="module")
def imported(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The aggregates' folders of the published table."""
    folder = tmp_path_factory.mktemp("imported")
    facts = {"study": "paper", "weights_hash": checkpoint.weights_hash}
    assert import_paper(RAW, lambda layer: folder / str(layer), TOKENS, "silu", facts) == list(range(LAYERS))
    return [folder / str(layer) for layer in range(LAYERS)]


def of_merged(oracle: Path) -> list[Path]:
    return [oracle / f"merged-{layer}" for layer in range(LAYERS)]


def array(table: pl.DataFrame, name: str) -> npt.NDArray[np.float64]:
    return np.array(table[name].to_list(), dtype=np.float64)


def assert_equal_to_the_papers(found: Path, published: Path) -> None:
    """Schemas exactly, numbers as far as two float32 forward passes agree; `test_oracle` explains each tolerance."""
    assert pq.read_schema(found).equals(pq.read_schema(published))
    ours, theirs = pl.read_parquet(found), pl.read_parquet(published)
    assert ours.columns == theirs.columns
    assert ours.select("layer", "neuron").equals(theirs.select("layer", "neuron"))
    assert ours["layer"].to_list() == [row // NEURONS for row in range(LAYERS * NEURONS)]
    count, other = (np.array([array(table, f"{quadrant}_freq") * TOKENS for quadrant in QUADRANTS]) for table in (ours, theirs))
    assert np.abs(count - other).max() < 3.1
    lists = [f"{quadrant}_{PAPER[activation]}_max_values" for quadrant, activation in LISTS]
    moved = carried(count, other, np.abs([array(theirs, name)[:, 0] for name in lists]).max(axis=0))
    for q, quadrant in enumerate(QUADRANTS):
        for name in PAPER.values():
            difference = array(ours, f"{quadrant}_{name}_mean") - array(theirs, f"{quadrant}_{name}_mean")
            assert (np.abs(difference) < 1e-4 + moved[q]).all()
    for quadrant, activation in LISTS:
        prefix = f"{quadrant}_{PAPER[activation]}_max"
        values, expected = array(ours, f"{prefix}_values"), array(theirs, f"{prefix}_values")
        np.testing.assert_allclose(values, expected, atol=3.5e-5)
        texts, others = array(ours, f"{prefix}_indices").astype(int), array(theirs, f"{prefix}_indices").astype(int)
        assert texts.shape == others.shape == (LAYERS * NEURONS, 16)
        if activation == "act":
            continue  # Swish saturates: only its values can agree
        for row in range(len(values)):
            mine, published_row = (
                {text: abs(value) for text, value in zip(*pair, strict=True) if value}
                for pair in ((texts[row], values[row]), (others[row], expected[row]))
            )
            last = min(mine.values(), default=0.0)
            for text in mine.keys() | published_row.keys():
                assert mine.get(text, last) == pytest.approx(published_row.get(text, last), abs=3.5e-5)


@needs_data
def test_the_export_of_the_real_model_is_the_papers_table(oracle: Path, tmp_path: Path) -> None:
    export_paper(of_merged(oracle)[::-1], tmp_path / "raw.parquet")
    assert_equal_to_the_papers(tmp_path / "raw.parquet", RAW)


@needs_data
def test_the_oriented_export_is_the_papers_refactored_table(oracle: Path, weights: list[Path], tmp_path: Path) -> None:
    export_paper(of_merged(oracle), tmp_path / "oriented.parquet", weights)
    assert_equal_to_the_papers(tmp_path / "oriented.parquet", ORIENTED)


@needs_data
def test_an_import_gives_the_papers_table_back_bit_for_bit(imported: list[Path], tmp_path: Path) -> None:
    export_paper(imported, tmp_path / "again.parquet")
    again, published = pl.read_parquet(tmp_path / "again.parquet"), pl.read_parquet(RAW)
    for name in published.columns:
        if name.endswith("_indices"):
            taken = array(published, name.replace("indices", "values")) != 0
            assert (array(again, name)[taken] == array(published, name)[taken]).all()
        else:
            assert again[name].equals(published[name]), name


@needs_data
def test_imported_tables_hold_what_ours_do(imported: list[Path], oracle: Path) -> None:
    for theirs, ours in zip(imported, of_merged(oracle), strict=True):
        for name in ("statistics", "examples", "sample", "positions"):
            assert pq.read_schema(theirs / f"{name}.parquet").equals(pq.read_schema(ours / f"{name}.parquet")), name
    found, expected = scan_statistics(imported).collect(), scan_statistics(of_merged(oracle)).collect()
    same = ["layer", "neuron", "mlp", "expert", "index", "routed", "positions", "zero"]
    assert found.select(same).equals(expected.select(same))
    count, other = (np.array([table[f"{quadrant}_count"] for quadrant in QUADRANTS]) for table in (found, expected))
    assert np.abs(count - other).max() <= 3
    lists = [f"{column(quadrant, activation)}_largest" for quadrant, activation in LISTS]
    moved = carried(count, other, np.abs([expected[name] for name in lists]).max(axis=0))
    for q, quadrant in enumerate(QUADRANTS):
        for activation in ACTIVATIONS:
            prefix = column(quadrant, activation)
            difference = (found[f"{prefix}_mean"] - expected[f"{prefix}_mean"]).to_numpy()
            assert (np.abs(difference) < 1e-4 + moved[q]).all()
            assert (found[f"{prefix}_largest"] - expected[f"{prefix}_largest"]).abs().max() < 3.5e-5
            assert found[f"{prefix}_std"].null_count() == len(found)
    assert (found["zero"] + sum(found[f"{quadrant}_count"] for quadrant in QUADRANTS) == TOKENS).all()
    footer = read_provenance(imported[3] / "examples.parquet")
    assert (footer["imported_from"], footer["layer"], footer["examples"], footer["study"]) == (RAW.name, 3, 16, "paper")


@needs_data
def test_places_that_no_text_takes_are_left_out(imported: list[Path]) -> None:
    published = pl.read_parquet(RAW)
    examples = pl.concat([pl.read_parquet(folder / "examples.parquet") for folder in imported])
    short = 0
    for quadrant, activation in LISTS:
        values = array(published, f"{quadrant}_{PAPER[activation]}_max_values")
        held = examples[column(quadrant, activation)].list.len().to_numpy()
        assert (held == (values != 0).sum(axis=1)).all()
        short += int((held < 16).sum())
    assert short > 0


@needs_data
def test_filled_windows_are_those_of_the_collection(oracle: Path, model: PreTrainedModel) -> None:
    corpus = TokenizedCorpus.open(oracle / "texts.parquet")
    chosen, layer = [7, 171], 3
    collected = pq.read_table(oracle / f"merged-{layer}" / "examples.parquet").take([*chosen, 50])
    bare = without_windows(collected)
    filled = fill_windows(bare, model, corpus, chosen, OPTIONS)
    assert filled.schema.equals(collected.schema)
    assert_windows_agree(filled, collected, range(len(chosen)))
    assert filled.slice(len(chosen)).equals(bare.slice(len(chosen)))


@needs_data
def test_a_page_of_imported_tables_shows_the_papers_numbers(
    imported: list[Path], oracle: Path, weights: list[Path], model: PreTrainedModel
) -> None:
    layer, neuron = 2, 11
    corpus = TokenizedCorpus.open(oracle / "texts.parquet")
    write_windows(imported[layer], model, corpus, [neuron])
    text = page_of(imported[layer], weights[layer], corpus, neuron)
    published = pl.read_parquet(ORIENTED).row(layer * NEURONS + neuron, named=True)
    for quadrant in QUADRANTS:
        assert f"n = {format_count(round(published[f'{quadrant}_freq'] * TOKENS))}" in text
        for name in PAPER.values():
            assert f"<td>{format_number(published[f'{quadrant}_{name}_mean'])}</td>" in text
        assert signed(published[f"{quadrant}_hook_post_max_values"][0]) in text
        first = published[f"{quadrant}_hook_post_max_indices"][0]
        assert re.search(rf'title="[^"]*text {first}, position \d+"', text)
    assert "nan" not in text.lower().split()


@needs_data
def test_the_explorer_takes_imported_tables_with_and_without_windows(
    imported: list[Path], oracle: Path, weights: list[Path], model: PreTrainedModel, tmp_path: Path
) -> None:
    corpus, decoder = TokenizedCorpus.open(oracle / "texts.parquet"), TokenDecoder.from_folder(DATA / "stories260K")
    for file in imported[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    before = write_columns(tmp_path / "site", LayerTables("final-0000000", 1, tmp_path, weights[1]), corpus, decoder)
    write_windows(tmp_path, model, corpus, [5])
    after = write_columns(tmp_path / "site", LayerTables("final-0000000", 1, tmp_path, weights[1]), corpus, decoder)
    assert after > before
    shown = scan_neurons([imported[1]], [weights[1]]).filter(pl.col("neuron") == 5).collect()
    assert shown["gate+_in+_frequency"][0] == pytest.approx(pl.read_parquet(ORIENTED)["gate+_in+_freq"][NEURONS + 5], abs=1e-7)


def page_of(aggregate: Path, weights: Path, corpus: TokenizedCorpus, neuron: int) -> str:
    """The page of one neuron in the oriented view."""
    layer = int(str(read_provenance(aggregate / "statistics.parquet")["layer"]))
    every = PageSelection(checkpoints="all", neurons="all")
    site_map = SiteMap("paper", "Paper", "model", "texts", (("final-0000000", "final"),), ((layer, NEURONS),), (every,))
    texts, vocabulary = ShownTexts(corpus), Vocabulary(TokenDecoder.from_folder(DATA / "stories260K"))
    source = LayerSource(
        "final-0000000", layer, aggregate, weights, site_map, DATA / "none", DATA / "stories260K", count_special_tokens=True
    )
    (page,) = LayerPages(source, texts, vocabulary).pages([neuron])
    return page.files[f"{neuron}.html"].decode()


# Small models


def without_windows(examples: pa.Table) -> pa.Table:
    """An examples table as an import gives it: no peaks, posts or windows."""
    for name in (column(*ranked) for ranked in LISTS):
        rows = examples[name].to_pylist()
        for entry in (entry for row in rows for entry in row):
            entry.update({"position": None, "start": None, "token": [], "gate": [], "in": []})
            entry["post"] = entry["post"] if name.endswith("_post") else None
        field = examples.schema.field(name)
        examples = examples.set_column(examples.schema.get_field_index(name), field, pa.array(rows, field.type))
    return examples


def assert_windows_agree(
    filled: pa.Table, collected: pa.Table, neurons: Sequence[int], act: Callable[[Tensor], Tensor] = torch.nn.functional.silu
) -> None:
    """The same peaks, and gate and in to the rounding of two float32 forward passes and of float16."""
    compared = 0
    for quadrant, activation in LISTS:
        name = column(quadrant, activation)
        mine, theirs = (table[name].take(list(neurons)).to_pylist() for table in (filled, collected))
        for found, expected in ((one, two) for pair in zip(mine, theirs, strict=True) for one, two in zip(*pair, strict=True)):
            assert (found["value"], found["text"]) == (expected["value"], expected["text"])
            if found["position"] != expected["position"]:
                # Swish saturates: the same value stands elsewhere in the text too.
                assert activation == "act"
                peak = torch.tensor(found["gate"][found["position"] - found["start"]])
                assert act(peak).item() == pytest.approx(found["value"], rel=2e-3)
                assert found["in"][found["position"] - found["start"]] * (1 if quadrant[8] == "+" else -1) > 0
                continue
            assert found["post"] == pytest.approx(expected["post"], rel=1e-6, abs=3.5e-5)
            assert (found["start"], found["token"]) == (expected["start"], expected["token"])
            for part in ("gate", "in"):
                cells, wanted = (np.array(entry[part], dtype=np.float64) for entry in (found, expected))
                np.testing.assert_allclose(cells, wanted, rtol=2e-3, atol=1e-4)
            compared += 1
    assert compared > 10 * len(neurons)


def ragged(seed: int, count: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [[0, *generator.integers(1, 30, generator.integers(1, 25)).tolist()] for _ in range(count)]


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "modernbert"])
def test_windows_of_experts_and_padded_batches_are_filled_too(model_type: str, tmp_path: Path) -> None:
    model, corpus = tiny_model(model_type), corpus_of(ragged(5, 14))
    mlp = look_through(model).mlps[-1]
    merged = collect_merged(model, corpus, SMALL, tmp_path, mlp.layer)
    collected = tables(merged)[1]
    chosen = [0, merged.neurons // 2, merged.neurons - 1]
    filled = fill_windows(without_windows(collected), model, corpus, chosen, SMALL)
    assert_windows_agree(filled, collected, chosen, activation_function(mlp.activation).compute)


def test_peaks_that_tie_are_those_of_the_collection(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    # Few values, so that every text has ties, and act has them where post differs.
    gate = torch.randint(-2, 3, (12, 4), generator=generator) * 0.75
    in_ = torch.randint(-3, 4, (12, 4), generator=generator) * 0.5
    model, corpus = TableModel(gate, in_), corpus_of([[token % 12 for token in text] for text in ragged(8, 14)])
    collected = tables(collect_merged(model, corpus, SMALL, tmp_path, 0))[1]
    filled = fill_windows(without_windows(collected), model, corpus, range(4), SMALL)  # type: ignore[arg-type]
    assert filled.equals(collected)


def test_windows_that_do_not_fit_float16_are_wider(tmp_path: Path) -> None:
    model, corpus = tiny_model("llama"), corpus_of(ragged(6, 9))
    with torch.no_grad():
        model.layers[0].mlp.up_proj.weight[2] *= 1e6
    merged = collect_merged(model, corpus, SMALL, tmp_path, 0)
    collected = tables(merged)[1]
    narrow = without_windows(collected)
    filled = fill_windows(narrow, model, corpus, [2], SMALL)
    assert filled["gate+_in+_in"].type.value_type.field("in").type.value_type == pa.float32()
    assert_windows_agree(filled, collected, [2])
    untouched = filled["gate+_in+_in"].take([1]).to_pylist()[0]
    assert [entry["position"] for entry in untouched] == [None] * len(untouched)


def test_a_table_of_another_model_or_corpus_is_refused(tmp_path: Path) -> None:
    model, corpus = tiny_model("llama"), corpus_of(ragged(7, 9))
    examples = without_windows(tables(collect_merged(model, corpus, SMALL, tmp_path, 0))[1])
    with pytest.raises(InputError, match="computes other values than the lists have at .* give the checkpoint"):
        fill_windows(examples, tiny_model("llama", seed=1), corpus, [0, 1, 2], SMALL)
    with pytest.raises(InputError, match=r"The examples name text \d and texts.parquet has 2 texts"):
        fill_windows(examples, model, corpus_of(ragged(7, 2)), [0, 1, 2], SMALL)
    with pytest.raises(InputError, match="has no neuron 9999"):
        fill_windows(examples, model, corpus, [9999], SMALL)


# Input


def folders_of(built: Workplace) -> list[Path]:
    return sorted((built.folder.root / "aggregates").glob("first-*/layer-*"))


def test_what_cannot_be_numbered_is_not_exported(built_tiny: Workplace, tmp_path: Path) -> None:
    folders = folders_of(built_tiny)
    with pytest.raises(InputError, match="the layers given are 1 with 12 neurons; give all layers"):
        export_paper(folders[1:], tmp_path / "out.parquet")
    model, corpus = tiny_model("llama"), corpus_of(ragged(7, 9))
    write_aggregate(collect_merged(model, corpus, SMALL, tmp_path / "work", 1), tmp_path / "wide", {})
    with pytest.raises(InputError, match="of one width"):
        export_paper([folders[0], tmp_path / "wide"], tmp_path / "out.parquet")
    assert not list(tmp_path.glob("*out.parquet*"))


def test_an_export_of_a_small_study_comes_back(built_tiny: Workplace, tmp_path: Path) -> None:
    folders = folders_of(built_tiny)
    export_paper(folders, tmp_path / "paper.parquet")
    before = scan_statistics(folders).collect()
    positions = before["positions"][0]
    import_paper(tmp_path / "paper.parquet", lambda layer: tmp_path / str(layer), positions, "silu")
    after = scan_statistics([tmp_path / "0", tmp_path / "1"]).collect()
    counts = [f"{quadrant}_count" for quadrant in QUADRANTS]
    assert after.select("zero", *counts).equals(before.select("zero", *counts))
    for quadrant in QUADRANTS:
        for activation in ACTIVATIONS:
            prefix = column(quadrant, activation)
            for statistic, tolerance in (("mean", 1e-6), ("largest", 1e-6)):
                one, two = (frame[f"{prefix}_{statistic}"] for frame in (before, after))
                assert one.is_null().equals(two.is_null())
                assert (one - two).abs().max() <= tolerance * max(1, one.abs().max())
    for layer, folder in enumerate(folders):
        mine, theirs = (pl.read_parquet(path / "examples.parquet") for path in (folder, tmp_path / str(layer)))
        for name in (column(*ranked) for ranked in LISTS):
            fields = pl.element().struct.with_fields(rank=0)
            pairs = [
                [[(entry["value"], entry["text"]) for entry in row] for row in table[name].list.eval(fields).to_list()]
                for table in (mine, theirs)
            ]
            assert pairs[0] == pairs[1]


def test_an_oriented_export_swaps_what_the_orientation_swaps(built_tiny: Workplace, tmp_path: Path) -> None:
    folders = folders_of(built_tiny)
    weights = sorted((built_tiny.folder.root / "weights").glob("first-*/layer-*.parquet"))
    export_paper(folders, tmp_path / "raw.parquet")
    export_paper(folders, tmp_path / "oriented.parquet", weights)
    raw, oriented = (pl.read_parquet(tmp_path / f"{name}.parquet").to_dicts() for name in ("raw", "oriented"))
    signs = pl.concat([pl.read_parquet(file, columns=["orientation"]) for file in weights])["orientation"].to_list()
    assert {-1, 1} == set(signs)
    for sign, before, after in zip(signs, raw, oriented, strict=True):
        for quadrant in QUADRANTS:
            other = oriented_quadrant(quadrant, sign)
            assert after[f"{quadrant}_freq"] == before[f"{other}_freq"]
            for name in PAPER.values():
                factor = sign if name in ("hook_post", "hook_pre_linear") else 1
                mean = before[f"{other}_{name}_mean"] * factor
                assert after[f"{quadrant}_{name}_mean"] == mean or np.isnan(mean)
                values, indices = f"{{}}_{name}_max_values", f"{{}}_{name}_max_indices"
                if values.format(quadrant) in after:
                    assert after[indices.format(quadrant)] == before[indices.format(other)]
                    expected = [factor * value for value in before[values.format(other)]]
                    assert after[values.format(quadrant)] == expected


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda table: table.drop(["gate-_in-_swish_mean"]), "lacks the column gate-_in-_swish_mean"),
        (lambda table: table.set_column(0, "layer", table["layer"].cast(pa.int32())), "layer is int32"),
        (lambda table: table.slice(0, 24).take(list(range(23, -1, -1))), "is not in the order layer · width"),
        (lambda table: table, "are no counts of 1000 positions"),
    ],
)
def test_a_table_that_is_not_the_papers_is_refused(built_tiny: Workplace, tmp_path: Path, change, sentence: str) -> None:  # type: ignore[no-untyped-def]
    export_paper(folders_of(built_tiny), tmp_path / "paper.parquet")
    pq.write_table(change(pq.read_table(tmp_path / "paper.parquet")), tmp_path / "changed.parquet")
    with pytest.raises(InputError, match=re.escape(sentence)):
        import_paper(tmp_path / "changed.parquet", lambda layer: tmp_path / str(layer), 1000, "silu")
    assert not (tmp_path / "0").exists()


def test_counts_of_many_positions_still_add_up(built_tiny: Workplace, tmp_path: Path) -> None:
    export_paper(folders_of(built_tiny), tmp_path / "paper.parquet")
    table, positions = pq.read_table(tmp_path / "paper.parquet"), 20_000_003
    counts = np.random.default_rng(1).multinomial(positions, [0.55, 0.25, 0.15, 0.05], size=len(table)).T
    for quadrant, count in zip(QUADRANTS, counts, strict=True):
        name = f"{quadrant}_freq"
        shares = pa.array((count / positions).astype(np.float32))
        table = table.set_column(table.schema.get_field_index(name), name, shares)
    pq.write_table(table, tmp_path / "many.parquet")
    import_paper(tmp_path / "many.parquet", lambda layer: tmp_path / str(layer), positions, "silu")
    found = scan_statistics([tmp_path / "0", tmp_path / "1"]).collect()
    for quadrant, count in zip(QUADRANTS, counts, strict=True):
        assert np.abs(found[f"{quadrant}_count"].to_numpy() - count).max() <= 2
    assert (found["zero"] == 0).all()
    assert (sum(found[f"{quadrant}_count"] for quadrant in QUADRANTS) == positions).all()
