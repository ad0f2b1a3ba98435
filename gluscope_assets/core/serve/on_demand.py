"""Files of a site that no build has written, made when they are asked for: pages of any neuron, and what surrounds them.

Made from the tables by the code that a build uses. How files travel to a browser belongs to `application`; nothing is written
into the site.
"""

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import polars as pl
import pyarrow as pa

from gluscope_assets.core.corpus.decoder import TokenDecoder
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.model.checkpoint import Checkpoint
from gluscope_assets.core.model.loading import load_model
from gluscope_assets.core.options import CollectionOptions
from gluscope_assets.core.pages.explorer_columns import groups, write_columns, write_vocabulary
from gluscope_assets.core.pages.formats import MlpIndex
from gluscope_assets.core.pages.layer_pages import LayerPages
from gluscope_assets.core.pages.layer_source import LayerSource
from gluscope_assets.core.pages.neuron_view import NeuronSummary
from gluscope_assets.core.pages.shown_texts import ShownTexts
from gluscope_assets.core.pages.site_map import layer_entry, manifest_text, read_manifest
from gluscope_assets.core.pages.strips import StripSources, compared, neurons_together, write_layer_strips
from gluscope_assets.core.pages.vocabulary import Vocabulary
from gluscope_assets.core.paths import LAYER_DIGITS, MANIFEST, NEURON_DIGITS, STRIPS, VOCABULARY, LayerTables, strips_file
from gluscope_assets.core.quadrants import QUADRANTS
from gluscope_assets.core.site.site import render_site
from gluscope_assets.core.tables.examples import lack_peaks
from gluscope_assets.core.tables.orientation import scan_neurons

MOST_LAYERS, MOST_PAGES, MOST_DECODERS = 4, 64, 2
"""Layers that stay open, neurons whose files stay in memory, and tokenizers that do."""

_LAYER_FILE = re.compile(
    rf"(?P<key>[^/]+)/(?P<layer>{LAYER_DIGITS})/"
    rf"(?:(?P<neuron>{NEURON_DIGITS})\.(?:html|js)|(?P<index>index\.html)|columns/(?:{'|'.join(groups())})\.js)"
)
_STRIPS = re.compile(rf"{STRIPS}/(?P<layer>{LAYER_DIGITS})/(?P<first>{NEURON_DIGITS})\.js")
_OTHER_FILE = re.compile(r"(?:static/)?[\w-]+\.\w+")

Stamp = tuple[str, int, tuple[int, ...]]
"""A checkpoint's key, a layer and when its tables were made."""


class OnDemand:
    """Makes files by their names in a site, from several threads if need be.

    `site` is the folder of the built site, which may be missing. The `sources` are the layers that have tables, at least
    one, in the order of checkpoints and layers; their site map selects all neurons, so that each page leads to its neighbours.
    """

    def __init__(self, site: Path, sources: Sequence[LayerSource]) -> None:
        self.site, self.site_map = site, sources[0].site_map
        self._widths = dict(self.site_map.layers)
        self.sources = {(source.checkpoint_key, source.layer): source for source in sources}
        tables: dict[int, list[LayerTables]] = {}
        for source in sources:
            tables.setdefault(source.layer, []).append(source)
        self._compared = compared(tables)
        self._lock = Lock()
        self._layer = lru_cache(MOST_LAYERS)(self._open)
        self._page = lru_cache(MOST_PAGES)(lambda stamp, neuron: next(iter(self._layer(stamp).pages([neuron]))).files)
        self._decoder = lru_cache(MOST_DECODERS)(TokenDecoder.from_folder)
        self._corpus = lru_cache(1)(lambda path, _: TokenizedCorpus.open(path))
        self._model = lru_cache(1)(lambda folder: load_model(Checkpoint(folder.name, folder, ""), "float32", "cpu"))
        self._scratch = tempfile.TemporaryDirectory(prefix="gluscope-")

    def close(self) -> None:
        """Delete what was made on disk."""
        self._scratch.cleanup()

    def manifest(self) -> bytes:
        """The built site's manifest with a page and a strip for every neuron of the layers that have tables."""
        built = self._built()
        entries = built.get("checkpoints", [])
        layers = {(entry["key"], layer["layer"]): layer for entry in entries for layer in entry["layers"]}
        layers |= {(key, layer): layer_entry(self.site_map, layer, [[0, self._widths[layer]]]) for key, layer in self.sources}
        names = {**dict(self.site_map.checkpoints), **{entry["key"]: entry["name"] for entry in entries}}
        entries = [
            {"key": key, "name": name, "layers": [layers[layer] for layer in sorted(layers) if layer[0] == key]}
            for key, name in names.items()
        ]
        facts = {"study": self.site_map.study, "view": self.site_map.view}
        strips = {
            "together": self._together(built),
            "layers": {str(layer): [[0, self._widths[layer]]] for layer in self._compared},
        }
        return manifest_text({**facts, **built, "checkpoints": entries, "training": strips}).encode()

    def _built(self) -> dict[str, Any]:
        """The manifest of the built site."""
        return read_manifest(self.site) if (self.site / MANIFEST).is_file() else {}

    def _together(self, built: Mapping[str, Any]) -> int:
        """How many neurons share a script of strips: as many as in those of the built site, beside which new ones stand."""
        return int((built.get("training") or {}).get("together", neurons_together(self._compared)))

    def file(self, name: str) -> bytes | None:
        """The content of a file; None if the study has none of that name. InputError if a table lacks something."""
        if name == MANIFEST:
            return self.manifest()
        if strips := _STRIPS.fullmatch(name):
            return self._strips(name, int(strips["layer"]), int(strips["first"]))
        named = _LAYER_FILE.fullmatch(name)
        if named is None:
            return self._written(name, partial(self._write_other, name)) if _OTHER_FILE.fullmatch(name) else None
        source = self.sources.get((named["key"], int(named["layer"])))
        if source is None:
            return None
        if named["neuron"] is not None:
            return self._page_file(source, int(named["neuron"]), name)
        if named["index"] is None:
            return self._written(name, partial(self._write_columns, source))
        with self._lock:
            return self._layer(_stamp(source)).index(_summaries(source))

    def _page_file(self, source: LayerSource, neuron: int, name: str) -> bytes | None:
        """A file of a neuron's page; None if the layer has no such neuron."""
        if neuron >= self._widths[source.layer]:
            return None
        with self._lock:
            return self._page(_stamp(source), neuron)[name.rpartition("/")[2]]

    def _open(self, stamp: Stamp) -> LayerPages:
        """The pages of a layer, opened again when its tables have been made again."""
        source = self.sources[stamp[:2]]
        corpus, decoder = self._texts(source)
        return LayerPages(source, ShownTexts(corpus), Vocabulary(decoder), partial(self._with_windows, source, corpus))

    def _texts(self, source: LayerSource) -> tuple[TokenizedCorpus, TokenDecoder]:
        """The texts that a layer's tables are about, and what their tokens say."""
        return self._corpus(source.corpus, source.corpus.stat().st_mtime_ns), self._decoder(source.tokenizer)

    def _with_windows(self, source: LayerSource, corpus: TokenizedCorpus, examples: pa.Table) -> pa.Table:
        """Examples of imported tables with their windows, from the model run over the texts that these neurons need."""
        # torch takes seconds to import, and only imported tables need it.
        from gluscope_assets.core.collect.window_filling import fill_windows

        if not lack_peaks(examples):
            return examples
        options = CollectionOptions(count_special_tokens=source.count_special_tokens)
        neurons = examples["neuron"].to_pylist()
        of_layer = examples.append_column("layer", pa.array([source.layer] * len(neurons), pa.int32()))
        return fill_windows(of_layer, self._model(source.tokenizer), corpus, neurons, options)

    def _strips(self, name: str, layer: int, first: int) -> bytes | None:
        """The script with the strips of some neurons; None if no script of the site has this name."""
        together, tables = self._together(self._built()), self._compared.get(layer, ())
        if (
            not tables
            or name != f"{STRIPS}/{strips_file(layer, first)}"
            or first not in range(0, self._widths[layer], together)
        ):
            return None
        source = self.sources[tables[-1].checkpoint_key, layer]

        def write(scratch: Path) -> None:
            sources = StripSources({layer: tables}, *self._texts(source))
            write_layer_strips(scratch / STRIPS, sources, layer, [first], together)

        return self._written(name, write)

    def _write_columns(self, source: LayerSource, scratch: Path) -> None:
        write_columns(scratch, source, *self._texts(source))

    def _write_other(self, name: str, scratch: Path) -> None:
        """The vocabulary, or what surrounds the pages."""
        if name == f"{VOCABULARY}.js":
            write_vocabulary(scratch, self._decoder(next(iter(self.sources.values())).tokenizer))
        elif not (scratch / MANIFEST).is_file():
            render_site(scratch, self.site_map)

    def _written(self, name: str, write: Callable[[Path], None]) -> bytes | None:
        """A file that `write` makes, alone or with others, in the folder that it is given; None if it does not."""
        with self._lock:
            scratch, path = Path(self._scratch.name), Path(self._scratch.name, name)
            if not path.is_file():
                write(scratch)
            return path.read_bytes() if path.is_file() else None


def _stamp(source: LayerSource) -> Stamp:
    """Changes when a table of the layer is made again."""
    files = (source.statistics, source.examples, source.weights, source.corpus)
    return source.checkpoint_key, source.layer, tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)


def _summaries(source: LayerSource) -> list[NeuronSummary]:
    """What the page of a layer shows of its neurons, without their examples, which would take as long as all pages."""
    shares = [f"{quadrant}_routed_frequency" for quadrant in QUADRANTS]
    names = ["neuron", "mlp", "expert", "index", *shares, "class"]
    # An expert that no position was routed to has 0 of 0 positions in each quadrant: NaN.
    neurons = scan_neurons([source.aggregate], [source.weights], source.site_map.view).select(names)
    table = neurons.with_columns(pl.col(shares).fill_nan(0)).collect()
    several = source.layer in dict(source.site_map.mlp_blocks)
    return [
        NeuronSummary(neuron, MlpIndex(mlp, expert, index) if several else None, of, input_output_class, None)
        for neuron, mlp, expert, index, *of, input_output_class in table.iter_rows()
    ]
