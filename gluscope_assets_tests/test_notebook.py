"""A built study in a notebook: its frames against the tables as they lie on disk, and a neuron's table as HTML."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from tokenizers import Tokenizer

import gluscope_assets
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.pages.formats import format_share
from gluscope_assets.core.quadrants import LISTS, QUADRANTS, column, oriented_quadrant
from gluscope_assets.notebook import Neuron, OpenedStudy
from gluscope_assets_tests.conftest import Workplace
from gluscope_assets_tests.support.tiny import LAYERS, WIDTH


@pytest.fixture(scope="module")
def opened(built_tiny: Workplace) -> OpenedStudy:
    return gluscope_assets.open(built_tiny.home, built_tiny.file)


def table(opened: OpenedStudy, part: str, key: str, name: str) -> pl.DataFrame:
    """All layers of a table as it lies on disk."""
    return pl.concat([pl.read_parquet(file) for file in sorted((opened.folder.root / part / key).glob(name))])


def orientations(opened: OpenedStudy, key: str) -> dict[tuple[int, int], int]:
    rows = table(opened, "weights", key, "layer-*.parquet").select("layer", "neuron", "orientation")
    return {(layer, neuron): sign for layer, neuron, sign in rows.iter_rows()}


def test_importing_the_package_imports_no_library() -> None:
    program = (
        "import sys, gluscope_assets; assert callable(gluscope_assets.open); "
        "print([name for name in ('polars', 'torch', 'numpy', 'pyarrow') if name in sys.modules]); "
        "import gluscope_assets.notebook; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["[]", "False"]


def test_checkpoints_are_in_the_order_of_training(opened: OpenedStudy, built_tiny: Workplace) -> None:
    assert [key.rpartition("-")[0] for key in opened.checkpoints] == ["first", "second"]
    assert all((built_tiny.folder.root / "aggregates" / key).is_dir() for key in opened.checkpoints)
    last = opened.neurons().collect()
    assert last["checkpoint"].unique().to_list() == [opened.checkpoints[-1]]
    assert last.equals(opened.neurons("second").collect())
    assert last.equals(opened.neurons(opened.checkpoints[1]).collect())


@pytest.mark.parametrize("view", ["oriented", "raw"])
def test_neurons_are_the_rows_of_the_tables(opened: OpenedStudy, view: str) -> None:
    key = opened.checkpoints[0]
    signs = orientations(opened, key)
    assert set(signs.values()) == {-1, 1}
    stored = table(opened, "aggregates", key, "*/statistics.parquet").rows_by_key(["layer", "neuron"], named=True, unique=True)
    frame = opened.neurons("first", view).collect()  # type: ignore[arg-type]
    assert len(frame) == len(stored) == LAYERS * WIDTH
    for row in frame.iter_rows(named=True):
        place = row["layer"], row["neuron"]
        sign = signs[place] if view == "oriented" else 1
        for quadrant in QUADRANTS:
            count = stored[place][f"{oriented_quadrant(quadrant, sign)}_count"]
            assert row[f"{quadrant}_count"] == count
            assert row[f"{quadrant}_frequency"] == count / stored[place]["positions"]


@pytest.mark.parametrize("view", ["oriented", "raw"])
def test_examples_are_those_of_the_lists_one_row_each(opened: OpenedStudy, built_tiny: Workplace, view: str) -> None:
    key = opened.checkpoints[0]
    signs = orientations(opened, key)
    corpus = pl.read_parquet(built_tiny.folder.corpus)
    tokenizer = Tokenizer.from_file(str(built_tiny.file.parent / "first" / "tokenizer.json"))
    expected = {}
    for row in table(opened, "aggregates", key, "*/examples.parquet").iter_rows(named=True):
        sign = signs[row["layer"], row["neuron"]] if view == "oriented" else 1
        for quadrant, activation in LISTS:
            for rank, entry in enumerate(row[column(quadrant, activation)], start=1):
                shown = oriented_quadrant(quadrant, sign)
                expected[row["layer"], row["neuron"], shown, activation, rank] = entry, sign
    frame = opened.examples("first", view=view).collect()  # type: ignore[arg-type]
    assert len(frame) == len(expected)
    whole = 0
    for row in frame.iter_rows(named=True):
        entry, sign = expected[row["layer"], row["neuron"], row["quadrant"], row["activation"], row["rank"]]
        assert row["checkpoint"] == key
        assert row["value"] == entry["value"] * (sign if row["activation"] in ("in", "post") else 1)
        assert (row["post"], row["text"], row["position"]) == (entry["post"] * sign, entry["text"], entry["position"])
        assert row["gate"] == entry["gate"]
        assert row["in"] == [sign * cell for cell in entry["in"]]
        assert row["document"] == corpus["document"][entry["text"]]
        # The quadrant is that of the signs at the peak.
        peak = row["position"] - row["start"]
        assert row["quadrant"] == f"gate{'+' if row['gate'][peak] > 0 else '-'}_in{'+' if row['in'][peak] > 0 else '-'}"
        assert len(row["tokens"]) == len(entry["token"])
        decoded = tokenizer.decode(entry["token"], skip_special_tokens=False)
        if "\ufffd" not in decoded:
            whole += 1
            assert "".join(row["tokens"]) == decoded
    assert whole > len(frame) / 2


def test_examples_of_a_layer_or_a_neuron_are_a_part_of_all(opened: OpenedStudy) -> None:
    everything = opened.examples().collect()
    of_layer = opened.examples(layer=1).collect()
    assert of_layer.equals(everything.filter(pl.col("layer") == 1))
    of_neuron = opened.examples(layer=1, neuron=4).collect()
    assert of_neuron.equals(everything.filter(pl.col("layer") == 1, pl.col("neuron") == 4))
    assert of_neuron.equals(opened.neuron(None, 1, 4).examples)
    lazily = opened.examples().filter(pl.col("rank") == 1, pl.col("activation") == "post").select("neuron", "tokens").collect()
    assert lazily.equals(everything.filter(pl.col("rank") == 1, pl.col("activation") == "post").select("neuron", "tokens"))


def test_a_comparison_has_what_each_neuron_was_and_became(opened: OpenedStudy) -> None:
    found = opened.compare(["first", "second"]).collect()
    assert len(found) == LAYERS * WIDTH
    before, after = (
        opened.neurons(name).collect().rows_by_key(["layer", "neuron"], named=True, unique=True) for name in ("first", "second")
    )
    for row in found.iter_rows(named=True):
        one, two = before[row["layer"], row["neuron"]], after[row["layer"], row["neuron"]]
        assert (row["checkpoint_before"], row["checkpoint_after"]) == tuple(opened.checkpoints)
        for name in (*(f"{quadrant}_routed_frequency" for quadrant in QUADRANTS), "cos_gate_in", "cos_gate_out", "cos_in_out"):
            assert (row[f"{name}_before"], row[f"{name}_after"]) == (one[name], two[name])
            assert row[f"{name}_change"] == pytest.approx(two[name] - one[name], abs=1e-6)
        for name in ("class", "orientation"):
            assert (row[f"{name}_before"], row[f"{name}_after"]) == (one[name], two[name])
            assert row[f"{name}_changed"] == (one[name] != two[name])
        assert (row["atypical_before"], row["atypical_after"]) == (one["atypical"], two["atypical"])
    assert found["orientation_changed"].any()
    assert opened.compare().collect().equals(found)
    back = opened.compare(["second", "first"]).collect()
    assert (back["cos_in_out_change"] == -found["cos_in_out_change"]).all()


# HTML


class Reader(HTMLParser):
    """Texts of table rows and of marks, and every tag that is open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.rows: list[str] = []
        self.marks: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag != "br":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append("")
        if tag == "mark":
            self.marks.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "tr" in self.open:
            self.rows[-1] += data
        if "mark" in self.open:
            self.marks[-1] += data


def every_neuron(opened: OpenedStudy) -> list[Neuron]:
    return [opened.neuron(None, layer, neuron) for layer in range(LAYERS) for neuron in range(WIDTH)]


def test_a_neuron_shows_its_quadrants_and_its_strongest_examples(opened: OpenedStudy) -> None:
    for neuron in every_neuron(opened):
        reader = Reader(neuron._repr_html_())
        head, *rows = reader.rows
        assert "strongest by |post|" in head
        assert len(rows) == 4
        marks = []
        for quadrant, row in zip(QUADRANTS, rows, strict=True):
            known = neuron.statistics
            assert format_share(known[f"{quadrant}_count"] / known["positions"]) in row
            for example in neuron.strongest(quadrant).head(3).iter_rows(named=True):
                marks.append(example["tokens"][example["position"] - example["start"]])
        assert len(marks) == len(reader.marks)
        for piece, mark in zip(marks, reader.marks, strict=True):
            if piece.isprintable() and piece:
                assert mark == piece
            else:
                assert mark
    assert repr(neuron).startswith(f"<layer 1, neuron 11 of {opened.checkpoints[-1]}: gate+_in+ ")


def test_what_a_text_says_is_never_markup(opened: OpenedStudy) -> None:
    neuron, attack = opened.neuron(None, 0, 0), "\"'><img src=x onerror=alert(1)></script>&lt;"
    tokens = pl.col("tokens").list.eval(pl.lit(attack).repeat_by(pl.element().len()).explode())
    hostile = neuron.examples.with_columns(document=pl.lit(attack), tokens=tokens)
    assert hostile["tokens"].list.len().equals(neuron.examples["tokens"].list.len())
    shown = Neuron(attack, 0, 0, neuron.view, neuron.statistics, hostile)._repr_html_()
    reader = Reader(shown)
    assert reader.tags == {"b", "bdi", "br", "code", "div", "mark", "small", "table", "tbody", "td", "th", "thead", "tr"}
    assert reader.attributes == {"style", "title"}
    assert set(reader.marks) == {attack}
    assert "url(" not in shown


def test_an_example_whose_peak_is_not_known_is_shown_by_its_text(opened: OpenedStudy) -> None:
    neuron = opened.neuron(None, 0, 0)
    bare = neuron.examples.with_columns(
        position=pl.lit(None, pl.Int32), start=pl.lit(None, pl.Int32), tokens=pl.lit([], pl.List(pl.String))
    )
    shown = Neuron(neuron.checkpoint, 0, 0, neuron.view, neuron.statistics, bare)._repr_html_()
    assert Reader(shown).marks == []
    assert f"text {bare.filter(pl.col('activation') == 'post')['text'][0]}" in shown


# Input


def test_bad_input_gets_a_sentence(opened: OpenedStudy, built_tiny: Workplace, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no study nothing; give one of .*demo"):
        gluscope_assets.open(tmp_path, "nothing")
    with pytest.raises(InputError, match=f"Nothing is built of the study tiny in {tmp_path}/tiny; run gluscope build"):
        gluscope_assets.open(tmp_path, built_tiny.file)
    with pytest.raises(InputError, match="has no checkpoint third that is built; it has first-"):
        opened.neurons("third")
    with pytest.raises(InputError, match=r"has no neuron 12 in layer 1 at second-\w+; layer 1 has 12"):
        opened.neuron(None, 1, 12)
    with pytest.raises(InputError, match="has no neuron 0 in layer 7 at .*; it has the layers 0, 1"):
        opened.neuron("second", 7, 0)
    with pytest.raises(InputError, match="has no layer 7"):
        opened.examples(layer=7)
    with pytest.raises(InputError, match="A comparison needs two checkpoints"):
        opened.compare(["first"])
    with pytest.raises(InputError, match="There is no view sideways; give oriented or raw"):
        opened.neurons(view="sideways")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=re.escape("There is no list of gate+_in+ by act")):
        opened.neuron(None, 0, 0).strongest("gate+_in+", "act")
