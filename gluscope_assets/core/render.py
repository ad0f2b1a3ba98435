"""Tables to pages: the neuron pages of one layer, and the site around them.

Templates and static files lie in `site/`; this module fills them and decides which pages there are. Packing of examples
belongs to `page_data`, checks on the result to `links`. Nothing is computed from activations here beyond what a page
shows of its tables.
"""

import base64
import hashlib
import json
import math
import os
import re
import shutil
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq
from markupsafe import Markup

import gluscope_assets
from gluscope_assets.core.activation import activation_function
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.figures import BOX, COLUMNS, MOST_MARKS, ROWS, figure_of
from gluscope_assets.core.files import hash_files, read_provenance, replacing, require_file
from gluscope_assets.core.findings import Finding
from gluscope_assets.core.options import PageSelection
from gluscope_assets.core.page_data import ExampleColumn, PackedExamples, Texts, Vocabulary, pack_examples
from gluscope_assets.core.progress import Progress, no_progress
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, QUADRANTS, column, oriented_quadrant
from gluscope_assets.core.tokens import TokenDecoder, visible

MANIFEST = "neurons.js"
"""The script at the site's root that tells every page which pages there are."""
MANIFEST_PREFIX = "window.gluscopeNeurons = "

NEURONS_AT_ONCE = 32
"""Neurons whose examples are in memory together."""
STATIC_EXAMPLES = 3
"""Examples of each quadrant that are readable without JavaScript."""
_SPACES = re.compile(" {3,}")

PAGE_CODE = ("activation", "figures", "findings", "page_data", "render", "tokens")
"""The modules of this package whose code shapes a page."""

TABLE_NEURONS = 2048
"""A layer with more pages lists them as plain links, without a row of figures each."""


@dataclass(frozen=True)
class SiteMap:
    """Which pages a study's site has. Pages exist for the selected neurons of the layers that are rendered."""

    study: str
    """The study's name, a slug."""
    title: str
    """The study as its pages' heading line says it."""
    model: str
    corpus: str
    """The corpus in a few words."""
    checkpoints: tuple[tuple[str, str], ...]
    """(key, name) in the order of training."""
    layers: tuple[tuple[int, int], ...]
    """(layer, its neurons), ascending."""
    pages: tuple[PageSelection, ...]

    def neurons(self, checkpoint_key: str, layer: int) -> range:
        """The neurons of a layer of a checkpoint that get pages. InputError if the checkpoint is unknown."""
        keys = [key for key, _ in self.checkpoints]
        if checkpoint_key not in keys:
            raise InputError(f"The study {self.study} has no checkpoint {checkpoint_key}; it has {', '.join(keys)}.")
        name, width = dict(self.checkpoints)[checkpoint_key], dict(self.layers)[layer]
        most = 0
        for selection in self.pages:
            if selection.checkpoints == "all":
                chosen = True
            elif selection.checkpoints == "last":
                chosen = checkpoint_key == keys[-1]
            else:
                chosen = name in selection.checkpoints
            if chosen:
                most = max(most, width if selection.neurons == "all" else min(selection.neurons, width))
        return range(most)

    def name_of(self, checkpoint_key: str) -> str:
        """The name of the checkpoint with that key."""
        return dict(self.checkpoints)[checkpoint_key]


@dataclass(frozen=True)
class RenderReport:
    """What was written."""

    pages: int
    bytes: int
    largest_bytes: int
    samples: tuple[str, ...]
    """Up to three pages, relative to the site."""


@dataclass(frozen=True)
class QuadrantView:
    """One quadrant of one neuron as its page shows it."""

    name: str
    count: int
    share: float
    """Of the positions routed to the neuron's expert; of all for a neuron that sees all."""
    rows: list[tuple[str, list[str]]]
    """(activation, [mean, standard deviation, value with the largest size]) as text."""
    examples: list["StaticExample"] = field(default_factory=list)


@dataclass(frozen=True)
class StaticExample:
    """One line of text with its peak, for readers without JavaScript."""

    post: float
    value: str
    """`post` as the page shows it."""
    left: str
    peak: str
    right: str
    near_left: str
    """The end of `left` for a narrow place, runs of spaces shortened."""
    near_right: str
    document: str
    text: int
    position: int


@dataclass(frozen=True)
class Place:
    """A neuron's place in a layer with several gated MLPs."""

    mlp: str
    expert: int | None
    index: int


def template_folder() -> Path:
    """The folder with `templates/` and `static/`: inside an installed package, else at the top of a checkout."""
    package = Path(gluscope_assets.__file__).parent
    for folder in (package / "_site", package.parent / "site"):
        if (folder / "templates").is_dir():
            return folder
    raise InputError(f"The page templates are missing from {package}; install the package again.")


def template_version() -> str:
    """SHA-256 in hex over all that shapes a page: templates, static files and the code that fills them."""
    folder = template_folder()
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    code = [Path(__file__).with_name(f"{name}.py") for name in PAGE_CODE]
    names = hashlib.sha256("\n".join(str(path.relative_to(folder)) for path in files).encode()).hexdigest()
    return hashlib.sha256((names + hash_files(*files, *code)).encode()).hexdigest()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_folder() / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": format_count,
        "decimal": format_decimal,
        "share": format_share,
        "number": format_number,
        "place": format_place,
        "json": safe_json,
        "quadrant": quadrant_label,
        "sign": signed,
    }
    return environment


def safe_json(value: object) -> Markup:
    """JSON that cannot end the script element or attribute that it stands in."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&'"}))


def format_count(count: int) -> str:
    """A count with narrow spaces between thousands."""
    return f"{count:,}".replace(",", "\u202f")


def format_share(share: float) -> str:
    """A frequency in percent. What is not 0 or 1 never reads as 0 % or 100 %."""
    if share == 0 or share == 1:
        return f"{share:.0%}"
    percent = 100 * share
    if percent < 0.01:
        return "<0.01%"
    if percent > 99.99:
        return ">99.99%"
    return f"{percent:.2f}%" if percent < 10 else f"{percent:.1f}%"


def format_number(value: float | None, digits: int = 4) -> str:
    """`digits` significant digits with a true minus sign; a dash for what is not there."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if -3 <= size < 7:
        text = f"{value:.{max(digits - 1 - size, 0)}f}"
    else:
        fraction, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{fraction}e{int(exponent)}"
    return text.replace("-", "−")


def format_decimal(value: float | None, digits: int) -> str:
    """`digits` digits after the point with a true minus sign; a dash for what is not there."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}" if value else "0"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def signed(value: float | None, digits: int = 4) -> str:
    """`format_number` with a plus sign where it applies."""
    return ("+" if value is not None and value > 0 else "") + format_number(value, digits)


def format_place(place: Place) -> str:
    """`neuron 17 of expert 5` or `neuron 17 of mlp.shared_expert`."""
    return f"neuron {place.index} of {place.mlp if place.expert is None else f'expert {place.expert}'}"


def quadrant_label(name: str) -> str:
    """`gate+_in-` as text: `gate+ in−`."""
    return name.replace("_", "\u2002").replace("-", "−")


def render_neuron_pages(
    site: Path,
    site_map: SiteMap,
    checkpoint_key: str,
    layer: int,
    aggregate: Path,
    weights: Path,
    corpus: Texts,
    decoder: TokenDecoder,
    activation: str,
    view: str = "oriented",
    count_special_tokens: bool = False,
    progress: Progress = no_progress,
) -> RenderReport:
    """Write the pages of one layer of one checkpoint into `site/<checkpoint key>/<layer>/`.

    `aggregate` is the folder with statistics.parquet and examples.parquet, `weights` the layer's file of weights,
    `activation` the config's name of σ. Pages of neurons that are no longer selected are deleted. Progress counts pages.
    """
    function = activation_function(activation)
    neurons = site_map.neurons(checkpoint_key, layer)
    folder = site / checkpoint_key / f"{layer:02d}"
    _remove_other_pages(folder, {f"{neuron}.html" for neuron in neurons} | ({"index.html"} if neurons else set()))
    if not neurons:
        return RenderReport(0, 0, 0, ())
    statistics = _rows_by_neuron(aggregate / "statistics.parquet")
    several = any(row["expert"] is not None or row["index"] != row["neuron"] for row in statistics.values())
    weight_rows = _rows_by_neuron(weights)
    baselines = read_provenance(weights).get("random_baseline", {})
    provenance = _shown_provenance(read_provenance(aggregate / "statistics.parquet"))
    vocabulary = Vocabulary(decoder)
    template = _environment().get_template("neuron.html")
    shared = {
        "root": "../../",
        "map": site_map,
        "key": checkpoint_key,
        "checkpoint": site_map.name_of(checkpoint_key),
        "layer": layer,
        "function": function,
        "view": view,
        "provenance": provenance,
        "special": [] if count_special_tokens else sorted(corpus.special_token_ids),
    }
    selected = set(neurons)
    written = total = largest = 0
    summaries = []
    for neuron, lists, row in _examples(aggregate / "examples.parquet", selected):
        orientation = int(weight_rows[neuron]["orientation"])
        sign = orientation if view == "oriented" else 1
        quadrant_of = {name: oriented_quadrant(name, sign) for name in QUADRANTS}
        packed = pack_examples(
            [(ranked, lists[column(quadrant_of[quadrant], ranked)]) for quadrant, ranked in LISTS],
            row,
            sign,
            corpus,
            vocabulary,
        )
        counts, quadrants, scale = _statistics(statistics[neuron], quadrant_of, sign)
        quadrants = [replace(quadrant, examples=_static_examples(packed, quadrant.name, corpus)) for quadrant in quadrants]
        place = bisect_left(neurons, neuron)
        data = {
            "layer": layer,
            "neuron": neuron,
            "function": activation,
            "special": shared["special"],
            "scale": scale,
            "lists": packed.lists,
            "counts": counts,
            "sizes": packed.sizes,
            "packed": base64.b64encode(packed.packed).decode("ascii"),
        }
        text = template.render(
            **shared,
            neuron=neuron,
            previous=neurons[place - 1] if place else None,
            next=neurons[place + 1] if place + 1 < len(neurons) else None,
            orientation=orientation,
            sign=sign,
            place=_place(statistics[neuron], several),
            positions=statistics[neuron]["positions"],
            routed=statistics[neuron]["routed"],
            zero=statistics[neuron]["zero"],
            quadrants=quadrants,
            weights=_weights(weight_rows[neuron], sign, vocabulary),
            chance=_chance(baselines, weight_rows[neuron]),
            data=data,
        )
        size = _write(folder / f"{neuron}.html", text)
        written, total, largest = written + 1, total + size, max(largest, size)
        summaries.append(
            (
                neuron,
                _place(statistics[neuron], several),
                [quadrant.share for quadrant in quadrants],
                weight_rows[neuron]["class"],
                _best(quadrants),
            )
        )
        progress(written, len(neurons))
    if written != len(neurons):
        raise InputError(
            f"{aggregate / 'examples.parquet'} holds {written} of the {len(neurons)} neurons that get pages; "
            "materialize quadrant_aggregates again."
        )
    summaries.sort(key=lambda summary: summary[0])
    text = (
        _environment()
        .get_template("layer.html")
        .render(**shared, neurons=summaries, width=dict(site_map.layers)[layer], table=len(summaries) <= TABLE_NEURONS)
    )
    total += _write(folder / "index.html", text)
    samples = dict.fromkeys(neurons[place] for place in (0, len(neurons) // 2, len(neurons) - 1))
    return RenderReport(written, total, largest, tuple(f"{checkpoint_key}/{layer:02d}/{neuron}.html" for neuron in samples))


def render_site(
    site: Path, site_map: SiteMap, facts: Mapping[str, str] | None = None, finding: Finding | None = None
) -> RenderReport:
    """Write what surrounds the neuron pages: index, explanation, manifest, static files.

    Lists the layers whose pages are there; folders of checkpoints that the site map does not have are deleted. `facts`
    are named values that the index shows, and it draws the `finding`, of a checkpoint of the site map. The report counts the
    pages and bytes of the whole site.
    """
    site.mkdir(parents=True, exist_ok=True)
    _remove_other_checkpoints(site, {key for key, _ in site_map.checkpoints})
    entries: list[dict[str, Any]] = []
    for key, name in site_map.checkpoints:
        layers = [
            {"layer": layer, "neurons": len(site_map.neurons(key, layer))}
            for layer, _ in site_map.layers
            if (site / key / f"{layer:02d}" / "index.html").is_file()
        ]
        if layers:
            entries.append({"key": key, "name": name, "layers": layers})
    shared = {"root": "", "map": site_map, "entries": entries, "facts": facts or {}, **_drawing(finding, entries)}
    _write_static(site / "static")
    _write(site / MANIFEST, manifest_text({"study": site_map.study, "checkpoints": entries}))
    for name in ("index.html", "about.html"):
        _write(site / name, _environment().get_template(name).render(**shared))
    pages = [path for path in site.glob("*/*/*.html") if path.stem.isdigit()]
    sizes = [path.stat().st_size for path in site.rglob("*") if path.is_file()]
    return RenderReport(
        len(pages), sum(sizes), max((path.stat().st_size for path in pages), default=0), ("index.html", "about.html")
    )


def _drawing(finding: Finding | None, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the index needs to draw a finding; its layers are linked where they have pages."""
    linked = {
        pages["layer"] for entry in entries if finding and entry["key"] == finding.checkpoint for pages in entry["layers"]
    }
    return {
        "figure": figure_of(finding) if finding else None,
        "linked": linked,
        "box": BOX,
        "columns": COLUMNS,
        "rows": ROWS,
        "most_marks": MOST_MARKS,
    }


def manifest_text(manifest: dict[str, object]) -> str:
    """The manifest as a classic script, which pages can read from file:// too."""
    return f"{MANIFEST_PREFIX}{safe_json(manifest)};\n"


def read_manifest(site: Path) -> dict[str, Any]:
    """The manifest of a built site. InputError if there is none."""
    text = require_file(site / MANIFEST).read_text(encoding="utf-8")
    manifest: dict[str, Any] = json.loads(text.removeprefix(MANIFEST_PREFIX).rstrip(";\n"))
    return manifest


def _rows_by_neuron(path: Path) -> dict[int, dict[str, Any]]:
    return {row["neuron"]: row for row in pq.read_table(require_file(path)).to_pylist()}


def _examples(path: Path, selected: set[int]) -> Iterator[tuple[int, dict[str, ExampleColumn], int]]:
    """(neuron, its batch's lists, its row in the batch) for each selected neuron, with one batch in memory."""
    names = ["neuron", *(column(quadrant, ranked) for quadrant, ranked in LISTS)]
    with pq.ParquetFile(require_file(path)) as file:
        for batch in file.iter_batches(batch_size=NEURONS_AT_ONCE, columns=names):
            rows = [(row, neuron) for row, neuron in enumerate(batch["neuron"].to_pylist()) if neuron in selected]
            if rows:
                lists = {name: ExampleColumn.from_arrow(batch[name]) for name in names[1:]}
                for row, neuron in rows:
                    yield neuron, lists, row


def _statistics(
    row: Mapping[str, Any], quadrant_of: Mapping[str, str], sign: int
) -> tuple[list[int], list[QuadrantView], dict[str, float]]:
    """Counts, the quadrants' tables, and the largest |value| of each activation, for one neuron in the page's view."""
    scale = dict.fromkeys(ACTIVATIONS, 0.0)
    quadrants = []
    for name, raw in quadrant_of.items():
        count = row[f"{raw}_count"]
        rows = []
        for activation in ACTIVATIONS:
            prefix = column(raw, activation)
            if not count:
                rows.append((activation, ["–"] * 3))
                continue
            mean, size = row[f"{prefix}_sum"] / count, row[f"{prefix}_largest"]
            deviation = math.sqrt(max(row[f"{prefix}_sum_of_squares"] / count - mean * mean, 0.0))
            if sign < 0 and activation in ("in", "post"):
                mean = -mean
            scale[activation] = max(scale[activation], size)
            rows.append((activation, [format_number(value) for value in (mean, deviation, math.copysign(size, mean))]))
        quadrants.append(QuadrantView(name, count, count / row["routed"] if row["routed"] else 0.0, rows))
    return [quadrant.count for quadrant in quadrants], quadrants, scale


def _place(row: Mapping[str, Any], several: bool) -> Place | None:
    """Where a neuron stands in a layer with several gated MLPs; None in a layer with one, where its number says it."""
    return Place(row["mlp"], row["expert"], row["index"]) if several else None


def _static_examples(packed: PackedExamples, quadrant: str, texts: Texts) -> list[StaticExample]:
    """The first examples of a quadrant by |post|."""
    place = LISTS.index((quadrant, "post"))
    head = sum(packed.lists[:place])
    out = []
    for example in range(head, head + min(packed.lists[place], STATIC_EXAMPLES)):
        first, peak, end = int(packed.first[example]), int(packed.peak[example]), int(packed.end[example])
        shown = [packed.pieces[piece].replace("\n", "") for piece in packed.piece[first:end]]
        left, right = shown[: peak - first], shown[peak - first + 1 :]
        out.append(
            StaticExample(
                post=float(packed.post[example]),
                value=signed(float(packed.post[example])),
                left="".join(left),
                peak=shown[peak - first],
                right="".join(right),
                near_left=_SPACES.sub("  ", "".join(left[-20:])),
                near_right=_SPACES.sub("  ", "".join(right[:16])),
                document=visible(texts.document_of(int(packed.text[example]))),
                text=int(packed.text[example]),
                position=int(packed.position[example]),
            )
        )
    return out


def _best(quadrants: Sequence[QuadrantView]) -> StaticExample | None:
    """The example with the largest |post| of all quadrants."""
    found = [quadrant.examples[0] for quadrant in quadrants if quadrant.examples]
    return max(found, key=lambda example: abs(example.post), default=None)


def _weights(row: Mapping[str, Any], sign: int, vocabulary: Vocabulary) -> dict[str, Any]:
    """The weights' view of one neuron in the page's view: w_in and w_out multiplied by `sign`."""

    def chips(name: str, factor: int = 1) -> list[tuple[str, str]]:
        return [
            (
                vocabulary[entry["token"]].replace("\n", ""),
                f"token {entry['token']}, {signed(factor * entry['score'], 3)}",
            )
            for entry in row[name] or ()
        ]

    swapped = sign < 0
    return {
        "class": row["class"],
        "atypical": row["atypical"],
        "cosines": [
            ("gate", "in", sign * row["cos_gate_in"]),
            ("gate", "out", sign * row["cos_gate_out"]),
            ("in", "out", row["cos_in_out"]),
        ],
        "promoted": chips("suppressed" if swapped else "promoted", sign),
        "suppressed": chips("promoted" if swapped else "suppressed", sign),
        "gate_positive": chips("gate_positive"),
        "gate_negative": chips("gate_negative"),
        "in_positive": chips("in_negative" if swapped else "in_positive", sign),
        "in_negative": chips("in_positive" if swapped else "in_negative", sign),
    }


def _chance(baselines: Any, row: Mapping[str, Any]) -> tuple[str, str] | None:
    """How large 98 of 100 cosines of w_in and w_out of mismatched neurons are at most, and of random directions."""
    name = row["mlp"] if row["expert"] is None else f"{row['mlp']}, expert {row['expert']}"
    mismatched = baselines.get(name, {})
    if "cos_in_out" not in mismatched:
        return None
    both = (mismatched["cos_in_out"], mismatched["closed form"])
    first, second = (format_number(max(abs(quantiles["0.01"]), abs(quantiles["0.99"])), 2) for quantiles in both)
    return first, second


def _shown_provenance(provenance: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """(name, short value, full value) of what fits on a page."""
    shown = []
    for name, value in sorted(provenance.items()):
        if isinstance(value, str | int | float):
            full = str(value)
            is_hash = len(full) >= 32 and all(digit in "0123456789abcdef" for digit in full)
            shown.append((name.replace("_", " "), full[:12] if is_hash else full[:60], full))
    return shown


def _write(path: Path, text: str) -> int:
    """Write `text` as UTF-8 and return its size."""
    content = text.encode("utf-8", "replace")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return len(content)


def _write_static(folder: Path) -> None:
    source = template_folder() / "static"
    files = [path for path in source.iterdir() if path.is_file() and not path.name.startswith(".")]
    for path in files:
        with replacing(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)
    for path in folder.iterdir():
        if path.is_file() and path.name not in {file.name for file in files}:
            path.unlink()


def _remove_other_pages(folder: Path, names: set[str]) -> None:
    if folder.is_dir():
        for entry in os.scandir(folder):
            if entry.name.endswith(".html") and entry.name not in names:
                os.unlink(entry.path)


def _remove_other_checkpoints(site: Path, keys: set[str]) -> None:
    for folder in site.iterdir():
        # Only what render_neuron_pages makes: a folder of two-digit layers.
        if folder.is_dir() and folder.name not in keys | {"static"}:
            layers = list(folder.iterdir())
            if layers and all(layer.is_dir() and layer.name.isdigit() for layer in layers):
                shutil.rmtree(folder)
