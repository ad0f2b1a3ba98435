"""The explorer's columns: decoded as a browser does, they are the tables, whatever the tables and texts hold."""

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from gluscope_assets.core.corpus.decoder import TokenDecoder, visible
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import write_parquet
from gluscope_assets.core.pages import explorer_columns as columns
from gluscope_assets.core.pages import peaks
from gluscope_assets.core.pages.explorer_columns import (
    groups,
    token_columns,
    write_columns,
    write_vocabulary,
)
from gluscope_assets.core.paths import LayerTables
from gluscope_assets.core.quadrants import ACTIVATIONS, QUADRANTS, column
from gluscope_assets.core.tables.statistics import scan_statistics
from gluscope_assets_tests.support.random_peaks import RandomPeaks, around, random_peaks
from gluscope_assets_tests.support.synthetic import HOSTILE, Corpus, Study, byte_level_tokenizer

KEY = "late-1111111"
LISTS = ("promoted", "suppressed", "gate_positive", "gate_negative", "in_positive", "in_negative")


class Script:
    """A script as explorer-data.js reads it."""

    def __init__(self, path: Path) -> None:
        text = path.read_text(encoding="ascii")
        found = re.fullmatch(r'gluscope\.provide\("([^"]+)",(\{.*\})\);\n', text)
        assert found, text[:100]
        self.text, self.name, self.value = text, found[1], json.loads(found[2])
        self.bytes = zlib.decompress(base64.b64decode(self.value["packed"]), -zlib.MAX_WBITS)
        self.place = 0

    def take(self, count: int) -> bytes:
        self.place += count
        return self.bytes[self.place - count : self.place]

    def numbers(self, dtype: str, *shape: int) -> np.ndarray:
        kind, count = np.dtype(dtype), int(np.prod(shape))
        planes = np.frombuffer(self.take(count * kind.itemsize), dtype=np.uint8).reshape(kind.itemsize, count)
        return np.ascontiguousarray(planes.T).view(kind).reshape(shape)

    def ended(self) -> bool:
        return self.place == len(self.bytes)


def read_summary(folder: Path) -> dict[str, Any]:
    script = Script(folder / "summary.js")
    width, kind = script.value["width"], "<f8" if script.value["wide"] else "<u4"
    out = {
        "count": script.numbers(kind, 4, width),
        "zero": script.numbers(kind, width),
        "cosines": [script.numbers("<f4", width) for _ in range(3)],
    }
    code = script.numbers("u1", width)
    assert script.ended()
    names = np.array(script.value["classes"], dtype=object)
    return script.value | out | {"class": names[code & 63].tolist(), "atypical": code & 64 > 0, "flipped": code & 128 > 0}


def read_tokens(folder: Path, group: str) -> dict[str, list[list[int]]]:
    script = Script(folder / f"{group}.js")
    names, sizes, width = script.value["lists"], script.value["sizes"], script.value["width"]
    lengths = [script.numbers("<u2", width) for _ in names]
    identities = [script.numbers("<u4", size) for size in sizes]
    assert script.ended()
    return {
        name: [part.tolist() for part in np.split(ids, np.cumsum(counts)[:-1])]
        for name, counts, ids in zip(names, lengths, identities, strict=True)
    }


def read_contexts(folder: Path) -> tuple[np.ndarray, list[list[tuple[str, str, str]]]]:
    script = Script(folder / "contexts.js")
    width = script.value["width"]
    post = script.numbers("<f4", 4, width)
    first, length = script.numbers("<u4", 4 * width), script.numbers("<u4", 4 * width)
    texts = script.take(script.value["bytes"]).decode().split("\0")
    assert script.ended()
    assert texts.pop() == ""
    assert len(texts) == 4 * width
    parts = []
    for text, begin, size in zip(texts, first.tolist(), length.tolist(), strict=True):
        units, peak, after = text.encode("utf-16-le"), 2 * begin, 2 * (begin + size)
        cut = units[:peak], units[peak:after], units[after:]
        parts.append(tuple(part.decode("utf-16-le") for part in cut))
    return post, [parts[quadrant * width : (quadrant + 1) * width] for quadrant in range(4)]  # type: ignore[misc]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The columns of the study's layer; tests must not change them."""
    site = tmp_path_factory.mktemp("site")
    written = study.write_columns(site)
    folder = site / KEY / "00" / "columns"
    assert written == sum(path.stat().st_size for path in folder.iterdir())
    return folder


def test_there_is_a_script_for_each_group(folder: Path) -> None:
    assert sorted(path.stem for path in folder.iterdir()) == sorted(groups())
    for path in folder.iterdir():
        assert Script(path).name == f"{KEY}/00/{path.stem}"


def test_the_summary_is_the_tables(study: Study, folder: Path) -> None:
    statistics = pq.read_table(study.folder / "aggregate/statistics.parquet").to_pydict()
    weights = pq.read_table(study.folder / "layer-00.parquet").to_pydict()
    summary = read_summary(folder)
    assert (summary["width"], summary["positions"], summary["wide"]) == (study.width, study.positions, False)
    for place, quadrant in enumerate(QUADRANTS):
        assert summary["count"][place].tolist() == statistics[f"{quadrant}_count"]
    assert summary["zero"].tolist() == statistics["zero"]
    for place, name in enumerate(("cos_gate_in", "cos_gate_out", "cos_in_out")):
        assert summary["cosines"][place].tolist() == np.float32(weights[name]).tolist()
    assert summary["class"] == weights["class"]
    assert summary["atypical"].tolist() == weights["atypical"]
    assert np.where(summary["flipped"], -1, 1).tolist() == weights["orientation"]
    assert summary["mlps"] == [["mlp", None, 0, 0]]


def test_statistics_are_the_described_tables_rounded_once(study: Study, folder: Path) -> None:
    described = scan_statistics([study.folder / "aggregate"]).collect()
    empty = 0
    for activation in ACTIVATIONS:
        for statistic in ("mean", "std", "largest"):
            script = Script(folder / f"{activation}-{statistic}.js")
            values = script.numbers("<f4", 4, study.width)
            assert script.ended()
            for place, quadrant in enumerate(QUADRANTS):
                expected = described[f"{column(quadrant, activation)}_{statistic}"].cast(pl.Float64).to_numpy()
                np.testing.assert_allclose(values[place], expected, rtol=1e-6, atol=1e-7)
                empty += int(np.isnan(values[place]).sum())
    assert empty > 0, "the study has empty quadrants"


def test_tokens_are_those_of_the_weights_and_of_the_peaks(study: Study, folder: Path) -> None:
    weights = pq.read_table(study.folder / "layer-00.parquet").to_pydict()
    for group in ("tokens-out", "tokens-gate", "tokens-in"):
        read = read_tokens(folder, group)
        assert list(read) == token_columns()[group]
        for name, lists in read.items():
            assert lists == [[entry["token"] for entry in row] for row in weights[name]]
    peaks = read_tokens(folder, "tokens-peaks")
    for quadrant in QUADRANTS:
        for neuron in range(study.width):
            inside = [study.inside(neuron, text, quadrant) for text in range(len(study.corpus.texts))]
            entries = study._list(neuron, "post", inside)
            found = [int(study.corpus.texts[entry["text"]][entry["position"]]) for entry in entries]
            assert peaks[f"{quadrant}_peaks"][neuron] == list(dict.fromkeys(found))


def test_contexts_are_the_texts_around_the_strongest_post(study: Study, folder: Path) -> None:
    post, parts = read_contexts(folder)
    examples = pq.read_table(study.folder / "aggregate/examples.parquet").to_pydict()
    seen = ""
    for place, quadrant in enumerate(QUADRANTS):
        for neuron, entries in enumerate(examples[column(quadrant, "post")]):
            if not entries:
                assert np.isnan(post[place, neuron])
                assert parts[place][neuron] == ("", "", "")
                continue
            assert post[place, neuron] == np.float32(entries[0]["post"])
            tokens = study.corpus.texts[entries[0]["text"]]
            assert parts[place][neuron] == around(study.decoder, tokens, entries[0]["position"])
            seen += "".join(parts[place][neuron])
    assert "�" not in seen


def test_hostile_texts_cannot_leave_the_script(study: Study, folder: Path, tmp_path: Path) -> None:
    class Hostile(TokenDecoder):
        """Pieces that no real tokenizer should have."""

        def piece(self, token: int) -> str:
            return f"\ud800\0{HOSTILE}<!--😀\u2028" if token == 5 else super().piece(token)

    decoder = Hostile(byte_level_tokenizer())
    corpus = Corpus([np.array([5, 5, 7, 5], dtype=np.int32)])
    examples = {name: [[{"post": 1.0, "text": 0, "position": 1}]] * study.width for name in _post_lists()}
    aggregate = _aggregate(study, tmp_path, examples)
    write_columns(tmp_path / "site", LayerTables(KEY, 0, aggregate, study.folder / "layer-00.parquet"), corpus, decoder)
    write_vocabulary(tmp_path / "site", decoder)
    for path in (tmp_path / "site").rglob("*.js"):
        text = Script(path).text
        assert "<" not in text
        assert "\0" not in text
    _, parts = read_contexts(tmp_path / "site" / KEY / "00" / "columns")
    shown = f"⟨U+D800⟩␀{HOSTILE}<!--😀⟨LS⟩"
    assert parts[0][0] == (shown, shown, decoder.piece(7) + shown)


def _post_lists() -> list[str]:
    return [column(quadrant, "post") for quadrant in QUADRANTS]


def _aggregate(
    study: Study, folder: Path, examples: dict[str, list[Any]], statistics: pa.Table | None = None, rows_at_once: int = 64
) -> Path:
    """Tables with given lists, and the study's statistics or others."""
    if statistics is None:
        statistics = pq.read_table(study.folder / "aggregate/statistics.parquet")
    write_parquet(statistics, folder / "aggregate/statistics.parquet", {})
    entry = pa.struct([("post", pa.float32()), ("text", pa.int32()), ("position", pa.int32())])
    neurons = len(next(iter(examples.values())))
    schema = pa.schema([("neuron", pa.int32()), *((name, pa.list_(entry)) for name in examples)])
    table = pa.Table.from_pydict({"neuron": list(range(neurons)), **examples}, schema=schema)
    write_parquet(table, folder / "aggregate/examples.parquet", {}, rows_at_once)
    return folder / "aggregate"


def moe_tables(study: Study, folder: Path) -> tuple[Path, Path]:
    """Three experts and a shared MLP in one layer; the second expert is never chosen, and nothing is known of its tokens."""
    places = [
        ("experts", 0, 0),
        ("experts", 0, 1),
        ("experts", 1, 0),
        ("experts", 2, 0),
        ("shared", None, 0),
        ("shared", None, 1),
    ]
    statistics = pq.read_table(study.folder / "aggregate/statistics.parquet").to_pylist()
    for row, (mlp, expert, index) in zip(statistics, places, strict=True):
        row |= {"mlp": mlp, "expert": expert, "index": index}
    for name in statistics[2]:
        if name.endswith("_count") or name in ("routed", "zero"):
            statistics[2][name] = 0
        elif name.startswith("gate") and not name.endswith("_peaks"):
            statistics[2][name] = None
    examples = pq.read_table(study.folder / "aggregate/examples.parquet").select(_post_lists()).to_pydict()
    for name in examples:
        examples[name][2] = None if name.startswith("gate+") else []
        examples[name] = [
            None if row is None else [{key: entry[key] for key in ("post", "text", "position")} for entry in row]
            for row in examples[name]
        ]
    weights = pq.read_table(study.folder / "layer-00.parquet").to_pylist()
    for name in LISTS:
        weights[2][name] = None
    write_parquet(pa.Table.from_pylist(weights), folder / "weights.parquet", {})
    return _aggregate(study, folder, examples, pa.Table.from_pylist(statistics)), folder / "weights.parquet"


def test_experts_that_saw_nothing_have_no_values(study: Study, tmp_path: Path) -> None:
    aggregate, weights = moe_tables(study, tmp_path)
    write_columns(tmp_path, LayerTables(KEY, 3, aggregate, weights), study.corpus, study.decoder)
    folder = tmp_path / KEY / "03" / "columns"
    summary = read_summary(folder)
    runs = [["experts", 0, 0, 0], ["experts", 1, 2, 0], ["experts", 2, 3, 0], ["shared", None, 4, 0]]
    assert summary["mlps"] == runs
    assert summary["count"][:, 2].tolist() == [0, 0, 0, 0]
    assert np.isnan(Script(folder / "post-mean.js").numbers("<f4", 4, 6)[:, 2]).all()
    assert np.isnan(Script(folder / "in-largest.js").numbers("<f4", 4, 6)[:, 2]).all()
    post, parts = read_contexts(folder)
    assert np.isnan(post[:, 2]).all()
    assert parts[0][2] == parts[3][2] == ("", "", "")
    assert parts[3][4] != ("", "", "")
    for group in (*token_columns(), "tokens-peaks"):
        assert all(lists[2] == [] and lists[4] for lists in read_tokens(folder, group).values())


def test_a_model_without_token_lists_has_empty_ones(study: Study, tmp_path: Path) -> None:
    weights = pq.read_table(study.folder / "layer-00.parquet").to_pylist()
    for row in weights:
        row |= dict.fromkeys(LISTS)
    write_parquet(pa.Table.from_pylist(weights), tmp_path / "weights.parquet", {})
    write_columns(
        tmp_path, LayerTables(KEY, 0, study.folder / "aggregate", tmp_path / "weights.parquet"), study.corpus, study.decoder
    )
    assert set(map(tuple, read_tokens(tmp_path / KEY / "00/columns", "tokens-in")["in_positive"])) == {()}


def test_counts_beyond_32_bits_are_exact(study: Study, tmp_path: Path) -> None:
    statistics = pq.read_table(study.folder / "aggregate/statistics.parquet").to_pylist()
    more = (1 << 40) + 1
    statistics[0]["gate+_in+_count"] += more
    statistics[0]["routed"] += more
    write_parquet(pa.Table.from_pylist(statistics), tmp_path / "aggregate/statistics.parquet", {})
    (tmp_path / "aggregate/examples.parquet").write_bytes((study.folder / "aggregate/examples.parquet").read_bytes())
    write_columns(
        tmp_path, LayerTables(KEY, 0, tmp_path / "aggregate", study.folder / "layer-00.parquet"), study.corpus, study.decoder
    )
    summary = read_summary(tmp_path / KEY / "00/columns")
    assert summary["wide"]
    assert summary["count"][0, 0] == statistics[0]["gate+_in+_count"]


@pytest.mark.parametrize("neurons", [1, 2, 5])
def test_batches_change_no_byte(
    study: Study, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, neurons: int
) -> None:
    monkeypatch.setattr(peaks, "NEURONS_AT_ONCE", neurons)
    study.write_columns(tmp_path)
    for path in folder.iterdir():
        assert (tmp_path / KEY / "00" / "columns" / path.name).read_bytes() == path.read_bytes()


def test_scripts_of_other_groups_are_deleted(study: Study, tmp_path: Path) -> None:
    stale = tmp_path / KEY / "00" / "columns" / "retired.js"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    study.write_columns(tmp_path)
    assert not stale.exists()


def test_the_vocabulary_is_the_pieces_as_pages_show_them(study: Study, tmp_path: Path) -> None:
    written = write_vocabulary(tmp_path, study.decoder)
    script = Script(tmp_path / "vocabulary.js")
    pieces = script.bytes.decode().split("\0")
    assert written == len(script.text)
    assert pieces.pop() == ""
    assert len(pieces) == script.value["pieces"] == study.tokenizer.get_vocab_size()
    assert pieces == [visible(study.decoder.piece(token)).replace("\n", "") for token in range(len(pieces))]


def test_tables_that_do_not_belong_together_are_refused(study: Study, tmp_path: Path) -> None:
    def write(aggregate: Path, weights: Path) -> None:
        write_columns(tmp_path / "site", LayerTables(KEY, 0, aggregate, weights), study.corpus, study.decoder)

    weights = study.folder / "layer-00.parquet"
    fewer = pq.read_table(weights).slice(0, 4)
    write_parquet(fewer, tmp_path / "fewer.parquet", {})
    with pytest.raises(InputError, match="hold different neurons; delete them and run gluscope build"):
        write(study.folder / "aggregate", tmp_path / "fewer.parquet")
    statistics = pq.read_table(study.folder / "aggregate/statistics.parquet").to_pylist()
    statistics[0]["zero"] += 1
    aggregate = _aggregate(study, tmp_path, {name: [[]] * 6 for name in _post_lists()}, pa.Table.from_pylist(statistics))
    with pytest.raises(InputError, match="do not add up to routed"):
        write(aggregate, weights)
    aggregate = _aggregate(study, tmp_path, {name: [[]] * 5 for name in _post_lists()})
    with pytest.raises(InputError, match=r"examples\.parquet does not hold the 6 neurons"):
        write(aggregate, weights)
    (aggregate / "examples.parquet").unlink()
    with pytest.raises(InputError, match=r"examples\.parquet does not exist"):
        write(aggregate, weights)


@settings(max_examples=60)
@given(random_peaks())
def test_tokens_of_any_peaks_are_those_of_brute_force(made: RandomPeaks) -> None:
    peaks = made.lists
    lengths, tokens = columns._distinct(peaks.first, columns._tokens_at(made.corpus, peaks["text"], peaks["position"]))
    lists = np.split(tokens, np.cumsum(lengths)[:-1])
    expected = [list(dict.fromkeys(made.texts[text][at] for text, at in row)) for row in made.peaks]
    assert [of_neuron.tolist() for of_neuron in lists] == expected
