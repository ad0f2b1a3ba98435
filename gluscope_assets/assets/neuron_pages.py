"""Pages: one a neuron, the site around them, and the copy of it that the public sees."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from gluscope_assets.assets.neuron_weights import checkpoint_of
from gluscope_assets.core.corpus.decoder import TokenDecoder
from gluscope_assets.core.corpus.tokenize import TokenizedCorpus
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.exchange.dataset import remove_dataset, write_dataset
from gluscope_assets.core.files import read_provenance, replacing
from gluscope_assets.core.model.checkpoint import Checkpoint, resolve_checkpoint
from gluscope_assets.core.pages.explorer_columns import write_columns, write_vocabulary
from gluscope_assets.core.pages.formats import format_count
from gluscope_assets.core.pages.rendering import render_layers
from gluscope_assets.core.pages.strips import Training
from gluscope_assets.core.paths import DATASET, INDEX, LayerTables, StudyFolder, pages_folder
from gluscope_assets.core.publishing import publish, roll_back
from gluscope_assets.core.site.overview import MeasuredCheckpoint, Measurement, Overview, Pass, overview_of
from gluscope_assets.core.site.site import render_site
from gluscope_assets.orchestration.automation import WHEN_INPUTS_CHANGE
from gluscope_assets.orchestration.partitions import by_checkpoint, layer_partitions, partition_key
from gluscope_assets.orchestration.records import attributes, data_version, made_from, page_links
from gluscope_assets.orchestration.resources import ProgressDisplay, Storage
from gluscope_assets.orchestration.retries import tried_again_if_transient
from gluscope_assets.study.fingerprints import (
    page_inputs,
    provenance,
    recorded_fingerprint,
    rendered_fingerprints,
    tables_behind,
)
from gluscope_assets.study.registry import read_registry
from gluscope_assets.study.sources import all_sources, layer_source, site_map
from gluscope_assets.study.study import Study

RECORDS_AT_ONCE = 1000
SOFTWARE = ("gluscope", "python", "torch", "transformers", "polars")
"""What a forward pass records the version of."""


def build_neuron_pages(study: Study) -> dg.AssetsDefinition:
    """A page for each neuron that the study's page selections hold."""

    @dg.asset(
        **attributes(study, "neuron_pages", "site", {"python", "html"}),
        partitions_def=layer_partitions(study),
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[[study.name, stage] for stage in ("quadrant_aggregates", "neuron_weights", "tokenized_corpus")],
        automation_condition=WHEN_INPUTS_CHANGE,
        description="The rendered pages of a layer.",
    )
    @tried_again_if_transient
    def neuron_pages(
        context: dg.AssetExecutionContext, storage: Storage, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        folder, fingerprints = storage.of(study), []
        corpus, corpus_fingerprint = TokenizedCorpus.open(folder.corpus), recorded_fingerprint(folder.corpus)
        checkpoints = [resolve_checkpoint(options) for options in study.model.checkpoints]
        for key, layers in by_checkpoint(context.partition_keys).items():
            checkpoint = checkpoint_of(study, key)
            footers = {
                layer: provenance(
                    study,
                    "neuron_pages",
                    page_inputs(study, checkpoint, layer, corpus_fingerprint, tables_behind(study, folder, checkpoint, layer)),
                    checkpoint,
                )
                for layer in layers
            }
            decoder = TokenDecoder.from_folder(checkpoint.folder)
            write_vocabulary(folder.site, decoder)
            pages = site_map(study, folder, checkpoints)
            sources = [layer_source(study, folder, pages, checkpoint, layer) for layer in layers]
            # Were a run to end half-way, files from two renderings would pass for those of the report.
            for layer in layers:
                folder.page_report(key, layer).unlink(missing_ok=True)
            with (
                progress.show(context, f"{checkpoint.name}: pages", "pages") as show,
                closing(render_layers(folder.site, sources, show)) as reports,
            ):
                for source, report in zip(sources, reports, strict=True):
                    layer, footer = source.layer, footers[source.layer]
                    columns = write_columns(folder.site, key, layer, source.aggregate, source.weights, corpus, decoder)
                    with replacing(folder.page_report(key, layer)) as path:
                        path.write_text(json.dumps({**footer, **asdict(report)}, indent=1))
                    fingerprints.append(footer["fingerprint"])
                    metadata = {
                        "fingerprint": str(footer["fingerprint"]),
                        "made from": made_from(footer),
                        "pages": report.pages,
                        "bytes": report.bytes,
                        "largest page": report.largest_bytes,
                        "bytes of columns": columns,
                        **show.metadata(),
                        "path": dg.MetadataValue.path(folder.site / pages_folder(key, layer)),
                        "links": page_links(report.samples),
                    }
                    context.add_asset_metadata(metadata, partition_key=partition_key(key, layer))
        return dg.MaterializeResult(data_version=data_version(fingerprints))

    return neuron_pages


def build_site(study: Study) -> dg.AssetsDefinition:
    """What surrounds the pages of all checkpoints."""

    @dg.asset(
        **attributes(study, "site", "site", {"python", "html"}),
        deps=[[study.name, "neuron_pages"]],
        automation_condition=WHEN_INPUTS_CHANGE,
        description="The index and what all pages share. Any static server can serve the folder, and so can file://.",
    )
    @tried_again_if_transient
    def site(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult[None]:
        folder = storage.of(study)
        checkpoints = [resolve_checkpoint(options) for options in study.model.checkpoints]
        rendered = rendered_fingerprints(study, folder, checkpoints)
        footer = provenance(study, "site", {"neuron_pages": rendered})
        if not rendered:
            raise InputError(f"{folder.site} has no neuron page yet; run gluscope build.")
        dataset = folder.site / DATASET
        if study.site.dataset_license is None:
            remove_dataset(dataset)
        else:
            write_dataset(all_sources(study, folder), dataset, study.site.dataset_license)
        report = render_site(
            folder.site,
            site_map(study, folder, checkpoints),
            site_measurement(study, folder, checkpoints, context.instance),
            site_overview(study, folder, checkpoints),
            site_training(study, folder, checkpoints),
            retired=[one.key for one in read_registry(folder).found if one.retired],
            dataset_license=study.site.dataset_license,
        )
        return dg.MaterializeResult(
            data_version=data_version([footer["fingerprint"]]),
            metadata={
                "fingerprint": str(footer["fingerprint"]),
                "made from": made_from(footer),
                "pages": report.pages,
                "bytes": report.bytes,
                "largest page": report.largest_bytes,
                "path": dg.MetadataValue.path(folder.site / INDEX),
                "links": page_links(report.samples),
            },
        )

    return site


def site_tables(study: Study, folder: StudyFolder, checkpoint: Checkpoint) -> list[LayerTables]:
    """The tables of the layers that pages were rendered from: what the site is made from is told by the pages' fingerprints."""
    every = (folder.tables(checkpoint.key, layer) for layer in study.model.layer_numbers)
    return [tables for tables in every if tables.are_there and folder.page_report(checkpoint.key, tables.layer).is_file()]


def site_overview(study: Study, folder: StudyFolder, checkpoints: Sequence[Checkpoint]) -> Overview:
    """The numbers that the index draws, of the checkpoints and layers that have data."""
    tables = [(checkpoint.key, site_tables(study, folder, checkpoint)) for checkpoint in checkpoints]
    return overview_of(tables, study.site.view)


def site_training(study: Study, folder: StudyFolder, checkpoints: Sequence[Checkpoint]) -> Training:
    """What the strips along training are made from."""
    tables: dict[int, list[LayerTables]] = {}
    for checkpoint in checkpoints:
        for of_layer in site_tables(study, folder, checkpoint):
            tables.setdefault(of_layer.layer, []).append(of_layer)
    return Training(tables, TokenizedCorpus.open(folder.corpus), TokenDecoder.from_folder(checkpoints[-1].folder))


def site_measurement(
    study: Study, folder: StudyFolder, checkpoints: Sequence[Checkpoint], instance: dg.DagsterInstance
) -> Measurement:
    """What the index says was measured: options, contents, and what the instance recorded of each forward pass."""
    corpus, collection = TokenizedCorpus.open(folder.corpus), study.collection
    places = {
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
                checkpoint.name,
                places[checkpoint.name],
                checkpoint.weights_hash,
                recorded_passes(study, checkpoint, site_tables(study, folder, checkpoint), instance),
            )
            for checkpoint in checkpoints
        ),
    )


def recorded_passes(
    study: Study, checkpoint: Checkpoint, tables: Sequence[LayerTables], instance: dg.DagsterInstance
) -> tuple[Pass, ...]:
    """The forward passes that measured `tables` of a checkpoint, in the order of time, as the instance recorded them.

    Of the records of a layer whose fingerprint is that of the shards it was merged from, the latest that forwarded something.
    """
    shards = {str(partition_key(checkpoint.key, of.layer)): (of.layer, _merged_from(of)) for of in tables}
    found: dict[int, dg.EventLogRecord] = {}
    cursor = None
    while shards:
        batch = instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey([study.name, "activation_shards"]), asset_partitions=list(shards)),
            limit=RECORDS_AT_ONCE,
            cursor=cursor,
        )
        for record in batch.records:
            layer, fingerprint = shards[record.partition_key or ""]
            recorded = _metadata(record)
            if recorded.get("fingerprint") == fingerprint and (layer not in found or not _metadata(found[layer]).get("tokens")):
                found[layer] = record
        if not batch.has_more:
            break
        cursor = batch.cursor
    runs: dict[str, list[int]] = {}
    for layer, record in sorted(found.items()):
        runs.setdefault(record.run_id, []).append(layer)
    ordered = sorted(runs.values(), key=lambda layers: (found[layers[0]].timestamp, layers))
    return tuple(_pass(layers, found[layers[0]].timestamp, _metadata(found[layers[0]])) for layers in ordered)


def _merged_from(tables: LayerTables) -> str | None:
    """The fingerprint of the shards that an aggregate was merged from."""
    inputs = read_provenance(tables.statistics).get("inputs")
    return str(inputs["activation_shards"]) if isinstance(inputs, dict) and "activation_shards" in inputs else None


def _metadata(record: dg.EventLogRecord) -> dict[str, Any]:
    event = record.asset_materialization
    return {} if event is None else {name: value.value for name, value in event.metadata.items()}


def _pass(layers: Sequence[int], timestamp: float, recorded: Mapping[str, Any]) -> Pass:
    tokens, rate = recorded.get("tokens"), recorded.get("tokens per second")
    return Pass(
        layers=tuple(layers),
        date=datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M"),
        tokens=tokens,
        seconds=tokens / rate if tokens and rate else None,
        resumed=recorded.get("shards finished before", 0),
        device=recorded.get("device"),
        dtype=recorded.get("dtype"),
        software=tuple((name, str(recorded[name])) for name in SOFTWARE if name in recorded),
    )


class PublishConfig(dg.Config):
    """What a person may choose when publishing."""

    roll_back: bool = False
    """Put back what was published before, instead of the site."""


def build_published_site(study: Study) -> dg.AssetsDefinition:
    """The site in its public place. It has no automation: a person decides."""

    @dg.asset(
        **attributes(study, "published_site", "site", {"html"}),
        deps=[[study.name, "site"]],
        description="The site in the public place that the study's publish names. Started by a person.",
    )
    @tried_again_if_transient
    def published_site(
        context: dg.AssetExecutionContext, config: PublishConfig, storage: Storage
    ) -> dg.MaterializeResult[None]:
        folder, report = storage.of(study), context.log.info
        if config.roll_back:
            publication = roll_back(study.publish, folder.publishing, report)
        else:
            publication = publish(folder.site, study.publish, folder.publishing, report)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(publication.identity),
            metadata={
                "target": publication.target,
                "publication": publication.identity,
                "previous publication": publication.previous or "none",
                "files": publication.files,
                "bytes": publication.bytes,
                "files uploaded": publication.changed,
                "bytes uploaded": publication.changed_bytes,
                **({"share of the limit": publication.bytes / publication.limit_bytes} if publication.limit_bytes else {}),
            },
        )

    return published_site
