"""A made-up study in the tables' schema: hostile texts, split characters, empty quadrants, exact zeros, flipped neurons.

Its statistics and lists follow from random activations by plain loops, so tests can compare pages with `Study.gate`.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from gluscope_assets.core.corpus.decoder import TokenDecoder
from gluscope_assets.core.files import write_parquet
from gluscope_assets.core.options import PageSelection
from gluscope_assets.core.pages.explorer_columns import write_columns, write_vocabulary
from gluscope_assets.core.pages.layer_pages import LayerPages
from gluscope_assets.core.pages.layer_source import LayerSource
from gluscope_assets.core.pages.rendering import RenderReport, render_neuron_pages
from gluscope_assets.core.pages.shown_texts import ShownTexts
from gluscope_assets.core.pages.site_map import SiteMap
from gluscope_assets.core.pages.strips import StripSources
from gluscope_assets.core.pages.vocabulary import Vocabulary
from gluscope_assets.core.paths import LayerTables
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, View, column
from gluscope_assets.core.site.measured import MeasuredCheckpoint, Measurement, Pass
from gluscope_assets.core.site.overview import overview_of
from gluscope_assets.core.site.site import render_site

BEGIN = "<|begin|>"
HOSTILE = "</script><img src=x onerror=alert(1)>"
LONG_WORD = "W" * 10_000
TEXTS = (
    "def __init__(self, name):\n\tself.name = name\n    return None\n",
    f'A text that wants out: {HOSTILE} and <!--<script> and ]]> and \' onload="x" `${{y}}` &amp; &#60;b&#62; done.',
    "Emoji that tokens split: 😀 👩‍👩‍👧 🇩🇪 and 日本語の文 and naïve café, all whole.",
    "Right to left \u202eoverride\u202c, isolate \u2067x\u2069, Arabic سلام and Hebrew שלום.",
    "Zero\u200bwidth, \x00 nul, \x1b escape, \x7f delete, \u2028 line separator, \ufeff mark, é combined.",
    "The quick brown fox jumps over the lazy dog while the small cat sleeps in the warm sun. " * 3,
    "Once upon a time there was a little girl who liked to play with her red ball in the park. " * 4,
    "x" * 400,
    "a",
    f"A word of ten thousand letters, {LONG_WORD}, and then `ticks`, `${{alert(1)}}` and a link to javascript:alert(1).",
    "Ends of what a text may stand in: </textarea></title></style></template>--></svg onload=alert(1)><base href=//x>.",
)
SURROGATES = "íł½í¸Ģ"
"""Two lone surrogates, ED A0 BD and ED B8 80, in the alphabet of byte-level tokenizers: no text, but ids may say it."""
DOCUMENTS = (
    "tales/one.txt",
    f"{HOSTILE}.txt",
    "emoji.md",
    "\u202eright.txt",
    "a/very/long/path/to/some/module/in/a/package/file.py",
    "javascript:alert(1)",
    'https://example.org/"><script>alert(1)</script>',
    "`${alert(1)}`\x00\x1b\u200b</textarea>.md",
)


def byte_level_tokenizer() -> Tokenizer:
    """Byte-level BPE without a token for most multi-byte characters, so that they are split, and with one for a long word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[BEGIN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for text in TEXTS if text.isascii() and LONG_WORD not in text], trainer)
    tokenizer.add_tokens([LONG_WORD])
    return tokenizer


@dataclass
class Corpus:
    """Texts in memory, with the attributes that pages use."""

    texts: list[np.ndarray]
    special_token_ids: tuple[int, ...] = (0,)

    def tokens_of(self, text: int) -> np.ndarray:
        return self.texts[text]

    def document_of(self, text: int) -> str:
        return DOCUMENTS[text % len(DOCUMENTS)]

    def start_of(self, text: int) -> int:
        return 100 * text


def silu(gate: np.ndarray) -> np.ndarray:
    return gate / (1 + np.exp(-gate.astype(np.float64)))


@dataclass
class Study:
    """One layer of one checkpoint, its tables written under `folder`."""

    folder: Path
    width: int = 6
    examples: int = 16
    before: int = 47
    after: int = 16
    texts: tuple[str, ...] = TEXTS
    repeats: int = 4
    """So many copies of each text, with other activations."""
    wide: bool = False
    """Whether windows hold values that float16 cannot, and are float32 therefore."""
    sampled: int = 300
    """Positions of the random sample."""
    activation: str = "silu"
    """What the tables say; values are those of SiLU whatever it is."""
    seed: int = 0
    tokenizer: Tokenizer = field(default_factory=byte_level_tokenizer)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        ids = [self.tokenizer.encode(text).ids for text in self.texts]
        ids.append([self.tokenizer.token_to_id(sign) for sign in SURROGATES])
        self.corpus = Corpus([np.array([0, *tokens], dtype=np.int32) for tokens in ids] * self.repeats)
        self.decoder = TokenDecoder(self.tokenizer)
        self.orientation = [1 if neuron % 2 == 0 else -1 for neuron in range(self.width)]
        self.gate: list[np.ndarray] = []
        """For each text, float32 [width, tokens]."""
        self.in_: list[np.ndarray] = []
        for text in self.corpus.texts:
            gate, in_ = (random.standard_normal((2, self.width, len(text))) * [[[2.0]], [[1.0]]]).astype(np.float32)
            # Narrow values, so that stored windows and full values agree to the bit and tests can compare exactly.
            gate, in_ = gate.astype(np.float16).astype(np.float32), in_.astype(np.float16).astype(np.float32)
            if self.width > 2:
                gate[2] = np.abs(gate[2])
                gate[2, len(text) // 2] = 0
            if self.width > 3:
                in_[3] = np.abs(in_[3])
            if self.wide:
                gate[0, -1], in_[0, -1] = 1e5, 1e-9
            self.gate.append(gate)
            self.in_.append(in_)
        self._write()

    @property
    def positions(self) -> int:
        return sum(len(text) - 1 for text in self.corpus.texts)

    def values(self, neuron: int, text: int) -> dict[str, np.ndarray]:
        """Raw gate, in, act, post of one text, [tokens]."""
        gate, in_ = self.gate[text][neuron], self.in_[text][neuron]
        act = silu(gate).astype(np.float32)
        return {"gate": gate, "in": in_, "act": act, "post": (act * in_).astype(np.float32)}

    def inside(self, neuron: int, text: int, quadrant: str) -> np.ndarray:
        """bool [tokens], the counted positions of one text that fall in a raw quadrant."""
        signs = {"+": 1, "-": -1}
        value = self.values(neuron, text)
        found = (np.sign(value["gate"]) == signs[quadrant[4]]) & (np.sign(value["in"]) == signs[quadrant[-1]])
        return found & (self.corpus.texts[text] != 0)

    def _write(self) -> None:
        statistics, examples, weights = [], [], []
        for neuron in range(self.width):
            place = {"mlp": "mlp", "expert": None, "index": neuron}
            row: dict[str, Any] = {"layer": 0, "neuron": neuron, **place, "positions": self.positions, "routed": self.positions}
            count = 0
            lists: dict[str, Any] = {"layer": 0, "neuron": neuron}
            for quadrant in QUADRANTS:
                inside = [self.inside(neuron, text, quadrant) for text in range(len(self.corpus.texts))]
                row[f"{quadrant}_count"] = int(sum(mask.sum() for mask in inside))
                count += row[f"{quadrant}_count"]
                for activation in ACTIVATIONS:
                    values = np.concatenate([self.values(neuron, text)[activation][mask] for text, mask in enumerate(inside)])
                    empty = not len(values)
                    row[column(quadrant, activation) + "_sum"] = None if empty else float(values.astype(np.float64).sum())
                    row[column(quadrant, activation) + "_sum_of_squares"] = (
                        None if empty else float((values.astype(np.float64) ** 2).sum())
                    )
                    row[column(quadrant, activation) + "_largest"] = None if empty else float(np.abs(values).max())
                    if (quadrant, activation) in LISTS:
                        lists[column(quadrant, activation)] = self._list(neuron, activation, inside)
            row["zero"] = self.positions - count
            statistics.append(row)
            examples.append(lists)
            weights.append(self._weights(neuron))
        number = pa.float32() if self.wide else pa.float16()
        entry = pa.struct(
            [
                ("value", pa.float32()),
                ("post", pa.float32()),
                ("text", pa.int32()),
                ("position", pa.int32()),
                ("start", pa.int32()),
                *[("token", pa.list_(pa.int32())), ("gate", pa.list_(number)), ("in", pa.list_(number))],
            ]
        )
        schema = pa.schema(
            [("layer", pa.int32()), ("neuron", pa.int32()), *((column(*name), pa.list_(entry)) for name in LISTS)]
        )
        provenance = {"weights_hash": "ab12cd3" + "0" * 57, "code_version": "test", "count_special_tokens": False}
        of_statistics = {**provenance, "activation": self.activation}
        write_parquet(pa.Table.from_pylist(statistics), self.folder / "aggregate/statistics.parquet", of_statistics)
        write_parquet(
            pa.Table.from_pylist(examples, schema=schema),
            self.folder / "aggregate/examples.parquet",
            provenance,
            row_group_size=4,
        )
        write_parquet(pa.Table.from_pylist(weights), self.folder / "layer-00.parquet", provenance)
        self._write_sample(provenance)

    def _write_sample(self, provenance: dict[str, object]) -> None:
        places = [
            (text, position) for text, ids in enumerate(self.corpus.texts) for position in range(len(ids)) if ids[position] != 0
        ]
        random = np.random.default_rng(self.seed)
        self.sample = [places[place] for place in random.permutation(len(places))[: self.sampled]]
        """(text, position) in the sample's order."""
        number = np.float32 if self.wide else np.float16
        columns = {
            name: [
                np.array([values[text][neuron, position] for text, position in self.sample], dtype=number)
                for neuron in range(self.width)
            ]
            for name, values in (("gate", self.gate), ("in", self.in_))
        }
        of_neuron = pa.list_(pa.float32() if self.wide else pa.float16())
        table = pa.table(
            {
                "neuron": pa.array(range(self.width), pa.int32()),
                **{name: pa.array([list(row) for row in rows], of_neuron) for name, rows in columns.items()},
            }
        )
        write_parquet(table, self.folder / "aggregate/sample.parquet", provenance)
        positions = {
            "hash": pa.array(range(len(self.sample)), pa.uint64()),
            "text": pa.array([text for text, _ in self.sample], pa.int32()),
            "position": pa.array([position for _, position in self.sample], pa.int32()),
            "token": pa.array([int(self.corpus.texts[text][position]) for text, position in self.sample], pa.int32()),
        }
        write_parquet(pa.table(positions), self.folder / "aggregate/positions.parquet", provenance)

    def _list(self, neuron: int, activation: str, inside: list[np.ndarray]) -> list[dict[str, Any]]:
        found = []
        for text, mask in enumerate(inside):
            if mask.any():
                values = self.values(neuron, text)
                size = np.where(mask, np.abs(values[activation]), -1)
                found.append((-size.max(), text, int(size.argmax()), values))
        entries = []
        for _, text, position, values in sorted(found, key=lambda entry: entry[:3])[: self.examples]:
            start, end = max(position - self.before, 0), position + self.after + 1
            number = np.float32 if self.wide else np.float16
            entries.append(
                {
                    "value": float(values[activation][position]),
                    "post": float(values["post"][position]),
                    "text": text,
                    "position": position,
                    "start": start,
                    "token": self.corpus.texts[text][start:end].tolist(),
                    "gate": list(values["gate"][start:end].astype(number)),
                    "in": list(values["in"][start:end].astype(number)),
                }
            )
        return entries

    def _weights(self, neuron: int) -> dict[str, Any]:
        chips = [{"token": token, "score": (10 - token % 10) / 10} for token in range(300 + neuron, 310 + neuron)]
        minus = [{"token": token - 40, "score": -chip["score"]} for token, chip in zip(range(300, 310), chips, strict=True)]
        return {
            "layer": 0,
            "neuron": neuron,
            "mlp": "mlp",
            "expert": None,
            "index": neuron,
            "orientation": self.orientation[neuron],
            "cos_gate_in": 0.25 * self.orientation[neuron],
            "cos_gate_out": -0.125,
            "cos_in_out": 0.625 - neuron / 8,
            "norm_gate": 1.0,
            "norm_in": 1.0,
            "norm_out": 1.0,
            "class": "conditional strengthening",
            "atypical": neuron == 1,
            "promoted": chips,
            "suppressed": minus,
            "gate_positive": chips,
            "gate_negative": minus,
            "in_positive": chips,
            "in_negative": minus,
        }

    def site_map(self) -> SiteMap:
        return SiteMap(
            study="synthetic",
            title="Synthetic",
            model="made-up",
            corpus="made-up texts",
            checkpoints=(("early-0000000", "early"), ("late-1111111", "late")),
            layers=((0, self.width), (1, self.width)),
            pages=(PageSelection(checkpoints="last", neurons="all"), PageSelection(checkpoints="all", neurons=3)),
        )

    def measurement(self) -> Measurement:
        """What was measured: nothing is recorded of the first checkpoint, and an old record of the last lacks its device."""
        ran = Pass((0, 1), "2026-01-02 03:04", 12345, 2.5, 0, None, "float32", (("torch", "2.13.0"),))
        return Measurement(
            description="A made-up study.",
            corpus_hash="c0ffee" + "0" * 58,
            texts=len(self.corpus.texts),
            tokens=self.positions,
            options=(("window", "47 positions before the peak, 16 after"),),
            checkpoints=(
                MeasuredCheckpoint("early", "some/model at early", "0000000" + "e" * 57, ()),
                MeasuredCheckpoint("late", "some/model at late", "1111111" + "e" * 57, (ran,)),
            ),
        )

    def tables(self, key: str = "late-1111111", layer: int = 0) -> LayerTables:
        """This study's tables as those of one layer of a checkpoint."""
        return LayerTables(key, layer, self.folder / "aggregate", self.folder / "layer-00.parquet")

    def source(self, key: str, layer: int, site_map: SiteMap) -> LayerSource:
        """The tables as one layer of a checkpoint; `layer_sources.write_inputs` writes the corpus and the tokenizer."""
        return LayerSource(
            checkpoint_key=key,
            layer=layer,
            aggregate=self.folder / "aggregate",
            weights=self.folder / "layer-00.parquet",
            site_map=site_map,
            corpus=self.folder / "texts.parquet",
            tokenizer=self.folder,
        )

    def render(
        self, site: Path, key: str = "late-1111111", layer: int = 0, site_map: SiteMap | None = None, view: View | None = None
    ) -> RenderReport:
        """Render this study's tables as one layer of a checkpoint, in the `view` asked for."""
        site_map = site_map or self.site_map()
        source = self.source(key, layer, replace(site_map, view=view or site_map.view))
        return render_neuron_pages(site, LayerPages(source, ShownTexts(self.corpus), Vocabulary(self.decoder)))

    def write_columns(self, site: Path, key: str = "late-1111111", layer: int = 0) -> int:
        """Write this study's tables as the explorer's columns of one layer of a checkpoint."""
        return write_columns(site, self.tables(key, layer), self.corpus, self.decoder)

    def strip_sources(self) -> StripSources:
        """What the strips of the built site's neurons are made from: the same tables at both checkpoints."""
        tables = [self.tables(key) for key, _ in self.site_map().checkpoints]
        return StripSources({0: tables, 1: tables}, self.corpus, self.decoder)

    def build(self, site: Path) -> Path:
        """A whole site of two checkpoints with two layers each."""
        for key, _ in self.site_map().checkpoints:
            for layer in range(2):
                self.render(site, key, layer)
                self.write_columns(site, key, layer)
        write_vocabulary(site, self.decoder)
        overview = overview_of(
            [(key, [self.tables(key, layer) for layer in range(2)]) for key, _ in self.site_map().checkpoints]
        )
        render_site(site, self.site_map(), self.measurement(), overview, self.strip_sources())
        return site
