"""A checkpoint's neurons in Neuronpedia's batch format, to be imported by an instance of it.

What belongs here: what of a neuron Neuronpedia can show, and the names of its fields. Our own tables are published by
`dataset`.

Neuronpedia shows features: numbers that are 0 where nothing happens and positive where something does, with the texts that
make them largest. A gated neuron does four things, so each quadrant is a source of its own, `<layer>-<set>__gate-pos-in-neg`
and so on, in which neuron i is feature i: its value at a token is |post| if the token lies in that quadrant, else 0. The tokens
that a feature promotes are those that w_out times the sign that post has there raises. Mean and largest gate, in and act, the
lists by other activations and the distributions have no place there and stay on our pages.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.arrays import Floats
from gluscope_assets.core.corpus.decoder import TokenDecoder
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import read_provenance, replacing_folder, require_file
from gluscope_assets.core.model.activation import activation_function
from gluscope_assets.core.pages.layer_source import LayerSource
from gluscope_assets.core.paths import EXAMPLES_FILE, STATISTICS_FILE
from gluscope_assets.core.quadrants import QUADRANTS, column, oriented_quadrant
from gluscope_assets.core.tables.examples import ExampleLists, lack_peaks

BATCH = 256
"""Features in one file."""

FOLDERS = ("features", "activations", "explanations")

NAMES = {
    "gate+_in+": "gate-pos-in-pos",
    "gate+_in-": "gate-pos-in-neg",
    "gate-_in+": "gate-neg-in-pos",
    "gate-_in-": "gate-neg-in-neg",
}
"""The quadrants as Neuronpedia's addresses allow them."""


@dataclass(frozen=True)
class Release:
    """What Neuronpedia asks of who publishes: identifiers are letters, digits, dots, dashes and underscores."""

    model_id: str
    """The model's identifier there, such as gemma-2-2b."""
    source_set: str
    """The first part of the sources' names after the layer, such as gluscope."""
    name: str
    """The release's identifier."""
    title: str
    creator: str
    """A name to show."""
    creator_id: str
    """The identifier of the user there that owns what is imported."""
    url: str = ""


def source_name(release: Release, layer: int, quadrant: str) -> str:
    """The identifier of one quadrant of one layer."""
    return f"{layer}-{release.source_set}__{NAMES[quadrant]}"


def export_neuronpedia(sources: Sequence[LayerSource], target: Path, release: Release) -> None:
    """Write layers of one checkpoint into the folder `target`, all or nothing; a folder that is there is replaced.

    `<model>/<source>/` holds `features/batch-N.jsonl.gz` and `activations/batch-N.jsonl.gz` with `BATCH` neurons each, an
    empty folder `explanations`, and `model.jsonl`, `release.jsonl`, `sourceset.jsonl` and `source.jsonl`. Quadrants are those
    of the site's view. Tokens that are not counted have the value 0. The same tables give the same bytes.

    InputError if the layers are of several checkpoints, an identifier has other signs, `target` holds something else, or
    windows are missing, as in imported tables.
    """
    keys = {source.checkpoint_key for source in sources}
    if len(keys) != 1:
        raise InputError(f"Neuronpedia's models are one checkpoint each, and {len(keys)} were given; export one at a time.")
    for field in ("model_id", "source_set", "name", "creator_id"):
        value = getattr(release, field)
        if not re.fullmatch(r"[A-Za-z0-9._-]+", value):
            raise InputError(f"{field} is {value!r}; give letters, digits, dots, dashes and underscores.")
    if target.exists() and (not target.is_dir() or not {path.name for path in target.iterdir()} <= {release.model_id}):
        raise InputError(f"{target} holds something else; give a folder that is empty or not there.")
    corpus, decoder = TokenizedCorpus.open(sources[0].corpus), TokenDecoder.from_folder(sources[0].tokenizer)
    with replacing_folder(target) as folder:
        for source in sources:
            layer = _Layer(source, release, corpus, decoder)
            for quadrant in QUADRANTS:
                layer.write(folder / release.model_id, quadrant)


@dataclass(frozen=True)
class _Layer:
    source: LayerSource
    release: Release
    corpus: TokenizedCorpus
    decoder: TokenDecoder

    def write(self, model: Path, quadrant: str) -> None:
        """One quadrant as a source."""
        folder = model / source_name(self.release, self.source.layer, quadrant)
        for name in FOLDERS:
            (folder / name).mkdir(parents=True)
        for name, entry in self.facts(quadrant).items():
            (folder / f"{name}.jsonl").write_bytes(_lines([entry]))
        for number, rows in enumerate(self.batches()):
            features, activations = zip(*self.features(rows, quadrant), strict=True)
            for name, entries in (("features", features), ("activations", chain(*activations))):
                # Without a time and a name in its head, the same content gives the same bytes.
                packed = gzip.compress(_lines(entries), compresslevel=6, mtime=0)
                (folder / name / f"batch-{number}.jsonl.gz").write_bytes(packed)

    def facts(self, quadrant: str) -> dict[str, dict[str, Any]]:
        """The entries that say what the source is."""
        release, site_map = self.release, self.source.site_map
        owner = {"creatorId": release.creator_id, "visibility": "PUBLIC"}
        set_name = f"{release.source_set}__{NAMES[quadrant]}"
        lengths = np.diff(self.corpus.offsets)
        return {
            "model": {
                "id": release.model_id,
                "displayName": site_map.model,
                "displayNameShort": site_map.model,
                "instruct": False,
                "layers": max(layer for layer, _ in site_map.layers) + 1,
                "neuronsPerLayer": max(width for _, width in site_map.layers),
                **owner,
            },
            "release": {
                "name": release.name,
                "description": release.title,
                "descriptionShort": release.title,
                "urls": [release.url] if release.url else [],
                "creatorName": release.creator,
                "creatorNameShort": release.creator,
                **owner,
            },
            "sourceset": {
                "modelId": release.model_id,
                "name": set_name,
                "description": f"Gated neurons, |post| in {quadrant} ({self.source.site_map.view})",
                "type": "neurons",
                "releaseName": release.name,
                "creatorName": release.creator,
                "urls": [release.url] if release.url else [],
                **owner,
            },
            "source": {
                "id": source_name(release, self.source.layer, quadrant),
                "modelId": release.model_id,
                "setName": set_name,
                "dataset": site_map.corpus,
                "num_prompts": self.corpus.n_texts,
                "num_tokens_in_prompt": int(lengths.max()),
                "hasDashboards": True,
                "inferenceEnabled": False,
                **owner,
            },
        }

    def batches(self) -> Iterator[dict[str, Any]]:
        """Statistics, weights and the lists by post of `BATCH` neurons at a time."""
        aggregate = self.source.aggregate
        statistics = pq.read_table(require_file(aggregate / STATISTICS_FILE))
        weights = pq.read_table(require_file(self.source.weights), columns=["orientation", "promoted", "suppressed"])
        lists = [column(quadrant, "post") for quadrant in QUADRANTS]
        examples = pl.scan_parquet(require_file(aggregate / EXAMPLES_FILE)).select(lists)
        for first in range(0, statistics.num_rows, BATCH):
            yield {
                "statistics": statistics.slice(first, BATCH).to_pylist(),
                "weights": weights.slice(first, BATCH).to_pylist(),
                "examples": examples.slice(first, BATCH).collect().to_arrow(),
            }

    def features(self, rows: dict[str, Any], quadrant: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Each neuron as a feature, with its activations."""
        raw_lists = {raw: _Examples(self, rows["examples"], raw) for raw in (quadrant, oriented_quadrant(quadrant, -1))}
        oriented = self.source.site_map.view == "oriented"
        for row, (statistics, weights) in enumerate(zip(rows["statistics"], rows["weights"], strict=True)):
            raw = oriented_quadrant(quadrant, weights["orientation"] if oriented else 1)
            identity = {
                "modelId": self.release.model_id,
                "layer": source_name(self.release, self.source.layer, quadrant),
                "index": str(statistics["neuron"]),
                "creatorId": self.release.creator_id,
            }
            # Post has one sign in a quadrant; where it is negative the neuron writes -w_out.
            sign = -1 if (statistics[f"{raw}_post_sum"] or 0) < 0 else 1
            raised, lowered = (weights[name] or [] for name in ("promoted", "suppressed")[::sign])
            feature = {
                **identity,
                "maxActApprox": _rounded(statistics[f"{raw}_post_largest"] or 0.0),
                "frac_nonzero": statistics[f"{raw}_count"] / statistics["positions"] if statistics["positions"] else 0.0,
                "hasVector": False,
                "vector": [],
                "pos_str": [self.decoder.piece(entry["token"]) for entry in raised],
                "pos_values": [_rounded(sign * entry["score"]) for entry in raised],
                "neg_str": [self.decoder.piece(entry["token"]) for entry in lowered],
                "neg_values": [_rounded(sign * entry["score"]) for entry in lowered],
            }
            yield feature, list(raw_lists[raw].of_row(row, identity))


class _Examples:
    """The list by post of one raw quadrant, for some neurons."""

    def __init__(self, layer: _Layer, rows: pa.Table, quadrant: str) -> None:
        name = column(quadrant, "post")
        if lack_peaks(rows.select([name])):
            raise InputError(
                f"{layer.source.aggregate} has no windows in {name}; fill them with window_filling.write_windows first."
            )
        self.layer, self.lists = layer, ExampleLists.from_arrow(rows[name])
        act = activation_function(str(read_provenance(layer.source.statistics)["activation"])).of_array
        gate, in_ = (self.lists[field].astype(np.float32) for field in ("gate", "in"))
        with np.errstate(invalid="ignore"):
            inside = (gate > 0 if quadrant[4] == "+" else gate < 0) & (in_ > 0 if quadrant[8] == "+" else in_ < 0)
            size = np.abs(act(gate) * in_)
        if not layer.source.count_special_tokens:
            inside &= ~np.isin(self.lists["token"], layer.corpus.special_token_ids)
        self.size: Floats = np.where(inside, size, 0).astype(np.float32)

    def of_row(self, row: int, identity: dict[str, str]) -> Iterator[dict[str, Any]]:
        """The activations of one neuron, which is the feature with this `identity`, strongest first."""
        lists, layer = self.lists, self.layer
        for example in range(int(lists.first[row]), int(lists.first[row + 1])):
            low, high = int(lists.window[example]), int(lists.window[example + 1])
            text, position, start = (int(lists[field][example]) for field in ("text", "position", "start"))
            peak, largest = position - start, float(abs(lists["post"][example]))
            # Gate and in are rounded in windows: nothing may stand above the peak, whose post is not.
            values = np.minimum(self.size[low:high], largest).tolist()
            values[peak] = largest
            yield {
                "id": _identifier(layer.source.checkpoint_key, identity["modelId"], identity["layer"], identity["index"], text),
                **identity,
                "tokens": layer.decoder.window_pieces(layer.corpus.tokens_of(text), start, high - low),
                "values": [_rounded(value) for value in values],
                "maxValue": _rounded(largest),
                "maxValueTokenIndex": peak,
                "minValue": _rounded(min(values)),
                "dataIndex": str(text),
                "dataSource": layer.source.site_map.corpus,
            }


def _rounded(value: float) -> float:
    """Five significant digits, which is more than a window holds."""
    return float(f"{value:.5g}")


def _identifier(*parts: object) -> str:
    """25 lower-case letters and digits, as Neuronpedia's own, the same for the same parts."""
    return "c" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _lines(entries: Iterable[dict[str, Any]]) -> bytes:
    text = "".join(f"{json.dumps(entry, ensure_ascii=False, separators=(',', ':'), allow_nan=False)}\n" for entry in entries)
    return text.encode("utf-8", "replace")
