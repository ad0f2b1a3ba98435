"""What the site says was measured: options, contents, and the forward passes as they were recorded when they ran.

Who keeps the records belongs to `orchestration`; here they are plain values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gluscope_assets.core.files import read_provenance
from gluscope_assets.core.pages.formats import format_count
from gluscope_assets.core.paths import LayerTables
from gluscope_assets.core.site.measured import MeasuredCheckpoint, Measurement, Pass

if TYPE_CHECKING:
    from gluscope_assets.core.corpus.texts import TokenizedCorpus
    from gluscope_assets.core.model.checkpoint import Checkpoint
    from gluscope_assets.study.study import Study

SOFTWARE = ("gluscope", "python", "torch", "transformers", "polars")
"""What a forward pass records the version of."""


@dataclass(frozen=True)
class RecordedShards:
    """What was recorded when the shards of a layer had been collected."""

    checkpoint_key: str
    layer: int
    run: str
    """Layers of one run share a forward pass."""
    timestamp: float
    """Seconds since 1970."""
    metadata: Mapping[str, Any]
    """What the collection reported."""


def measurement_of(
    study: "Study",
    corpus: "TokenizedCorpus",
    measured: Iterable[tuple["Checkpoint", Sequence[LayerTables]]],
    records: Sequence[RecordedShards],
) -> Measurement:
    """What was measured at checkpoints, given the tables of each that pages were rendered from.

    `records` are those of the study's shards, the latest first.
    """
    collection = study.collection
    sources = {
        options.name: f"{options.repository} at {options.revision}" if options.path is None else options.path.name
        for options in study.model.checkpoints
    }
    options = {
        "longest text": f"{format_count(study.corpus.text_tokens)} tokens",
        "texts at most": format_count(study.corpus.max_texts) if study.corpus.max_texts is not None else "all",
        "special tokens": "counted" if collection.count_special_tokens else "not counted",
        "examples of a list (K)": f"{collection.examples}",
        "window": f"{collection.window_before} positions before the peak, {collection.window_after} after",
        "position sample": f"{format_count(collection.sample_positions)} positions",
        "dtype asked for": study.model.dtype,
        "view": study.site.view,
    }
    return Measurement(
        description=study.description,
        corpus_hash=corpus.content_hash,
        texts=corpus.n_texts,
        tokens=corpus.n_tokens if collection.count_special_tokens else corpus.n_counted,
        options=tuple(options.items()),
        checkpoints=tuple(
            MeasuredCheckpoint(
                checkpoint.name, sources[checkpoint.name], checkpoint.weights_hash, passes_of(checkpoint.key, tables, records)
            )
            for checkpoint, tables in measured
        ),
    )


def passes_of(checkpoint_key: str, tables: Sequence[LayerTables], records: Iterable[RecordedShards]) -> tuple[Pass, ...]:
    """The forward passes that measured `tables` of a checkpoint, in the order of time; `records` are the latest first.

    Of the records of a layer whose fingerprint is that of the shards it was merged from, the latest that forwarded something.
    """
    merged_from = {of_layer.layer: _merged_from(of_layer) for of_layer in tables}
    measured: dict[int, RecordedShards] = {}
    for record in records:
        if (record.checkpoint_key, record.metadata.get("fingerprint")) != (checkpoint_key, merged_from.get(record.layer)):
            continue
        if record.layer not in measured or not measured[record.layer].metadata.get("tokens"):
            measured[record.layer] = record
    runs: dict[str, list[int]] = {}
    for layer, record in sorted(measured.items()):
        runs.setdefault(record.run, []).append(layer)
    ordered = sorted(runs.values(), key=lambda layers: (measured[layers[0]].timestamp, layers))
    return tuple(_pass(layers, measured[layers[0]]) for layers in ordered)


def _merged_from(tables: LayerTables) -> str | None:
    """The fingerprint of the shards that an aggregate was merged from."""
    inputs = read_provenance(tables.statistics).get("inputs")
    return str(inputs["activation_shards"]) if isinstance(inputs, dict) and "activation_shards" in inputs else None


def _pass(layers: Sequence[int], record: RecordedShards) -> Pass:
    recorded = record.metadata
    tokens, rate = recorded.get("tokens"), recorded.get("tokens per second")
    return Pass(
        layers=tuple(layers),
        date=datetime.fromtimestamp(record.timestamp, UTC).strftime("%Y-%m-%d %H:%M"),
        tokens=tokens,
        seconds=tokens / rate if tokens and rate else None,
        resumed=recorded.get("shards finished before", 0),
        device=recorded.get("device"),
        dtype=recorded.get("dtype"),
        software=tuple((name, str(recorded[name])) for name in SOFTWARE if name in recorded),
    )
