"""Pages: one a neuron, the site around them, and the copy of it that the public sees."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import dagster as dg
import pyarrow.parquet as pq

from gluscope_assets.assets.model import checkpoint_of
from gluscope_assets.assets.reporting import attributes, data_version, page_links, size_of
from gluscope_assets.automation import WHEN_INPUTS_CHANGE
from gluscope_assets.core.checkpoint import Checkpoint, resolve_checkpoint
from gluscope_assets.core.corpus import TokenizedCorpus
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import read_provenance, replacing, replacing_folder
from gluscope_assets.core.findings import Finding, gate_frequency_finding
from gluscope_assets.core.neuron_page import LayerPages, render_neuron_pages
from gluscope_assets.core.options import CorpusOptions
from gluscope_assets.core.progress import Progress
from gluscope_assets.core.site import render_site
from gluscope_assets.core.site_map import MANIFEST, SiteMap
from gluscope_assets.core.tokens import TokenDecoder
from gluscope_assets.partitions import by_checkpoint, layer_partitions, partition_key
from gluscope_assets.resources import ProgressDisplay, Storage, StudyFolder
from gluscope_assets.studies.study import Study
from gluscope_assets.versions import page_inputs, provenance, recorded_fingerprint, rendered_fingerprints


def corpus_label(options: CorpusOptions) -> str:
    """The corpus in a few words."""
    return "Python's standard library" if options.path is None else options.path.stem


def site_map(study: Study, folder: StudyFolder, checkpoints: Sequence[Checkpoint]) -> SiteMap:
    """The study as the renderer sees it. Checkpoints of one model have equal layers; those that are built tell their width."""
    widths = {}
    for layer in study.model.layer_numbers:
        paths = (folder.aggregate(checkpoint.key, layer) / "statistics.parquet" for checkpoint in checkpoints)
        built = next((path for path in paths if path.is_file()), None)
        if built is not None:
            widths[layer] = pq.read_metadata(built).num_rows
    return SiteMap(
        study=study.name,
        title=study.title,
        model=study.model.name,
        corpus=corpus_label(study.corpus),
        checkpoints=tuple((checkpoint.key, checkpoint.name) for checkpoint in checkpoints),
        layers=tuple(widths.items()),
        pages=study.site.pages,
    )


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
    def neuron_pages(
        context: dg.AssetExecutionContext, storage: Storage, progress: ProgressDisplay
    ) -> dg.MaterializeResult[None]:
        folder, fingerprints = storage.of(study), []
        corpus, corpus_fingerprint = TokenizedCorpus.open(folder.corpus), recorded_fingerprint(folder.corpus)
        checkpoints = [resolve_checkpoint(options) for options in study.model.checkpoints]
        for key, layers in by_checkpoint(context.partition_keys).items():
            checkpoint = checkpoint_of(study, key)
            decoder = TokenDecoder.from_folder(checkpoint.folder)
            with progress.show(context, f"{checkpoint.name}: pages", "pages") as show:
                pages = site_map(study, folder, checkpoints)
                counts = [len(pages.neurons(key, layer)) for layer in layers]
                for place, layer in enumerate(layers):
                    aggregate, weights = folder.aggregate(key, layer) / "statistics.parquet", folder.weights(key, layer)
                    inputs = page_inputs(
                        study,
                        checkpoint,
                        corpus_fingerprint,
                        recorded_fingerprint(weights),
                        recorded_fingerprint(aggregate),
                    )
                    footer = provenance(study, "neuron_pages", inputs, checkpoint)
                    made = LayerPages(
                        pages, key, layer, aggregate.parent, weights, corpus, decoder,
                        str(read_provenance(aggregate)["activation"]), study.site.view, study.collection.count_special_tokens,
                    )  # fmt: skip
                    report = render_neuron_pages(folder.site, made, partial(show_layer, show, sum(counts[:place]), sum(counts)))
                    with replacing(folder.page_report(key, layer)) as path:
                        path.write_text(json.dumps({**footer, **asdict(report)}, indent=1))
                    fingerprints.append(footer["fingerprint"])
                    metadata = {
                        "fingerprint": str(footer["fingerprint"]),
                        "pages": report.pages,
                        "bytes": report.bytes,
                        "largest page": report.largest_bytes,
                        "path": dg.MetadataValue.path(folder.site / key / f"{layer:02d}"),
                        "links": page_links(report.samples),
                    }
                    context.add_asset_metadata(metadata, partition_key=partition_key(key, layer))
        return dg.MaterializeResult(data_version=data_version(fingerprints))

    return neuron_pages


def show_layer(show: Progress, before: int, total: int, done: int, of_layer: int) -> None:
    """Progress over the pages of all layers of a checkpoint from that of one, with so many pages before it."""
    show(before + done, total)


def build_site(study: Study) -> dg.AssetsDefinition:
    """What surrounds the pages of all checkpoints."""

    @dg.asset(
        **attributes(study, "site", "site", {"python", "html"}),
        deps=[[study.name, "neuron_pages"]],
        automation_condition=WHEN_INPUTS_CHANGE,
        description="The index and what all pages share. Any static server can serve the folder, and so can file://.",
    )
    def site(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult[None]:
        folder = storage.of(study)
        checkpoints = [resolve_checkpoint(options) for options in study.model.checkpoints]
        rendered = rendered_fingerprints(study, folder, checkpoints)
        footer = provenance(study, "site", {"neuron_pages": rendered})
        if not rendered:
            raise InputError(f"{folder.site} has no neuron page yet; materialize neuron_pages first.")
        report = render_site(
            folder.site,
            site_map(study, folder, checkpoints),
            site_facts(study, folder),
            site_finding(study, folder, checkpoints),
        )
        return dg.MaterializeResult(
            data_version=data_version([footer["fingerprint"]]),
            metadata={
                "fingerprint": str(footer["fingerprint"]),
                "pages": report.pages,
                "bytes": report.bytes,
                "largest page": report.largest_bytes,
                "path": dg.MetadataValue.path(folder.site / "index.html"),
                "links": page_links(report.samples),
            },
        )

    return site


def site_facts(study: Study, folder: StudyFolder) -> dict[str, str]:
    """What the index says of the study."""
    corpus = TokenizedCorpus.open(folder.corpus)
    facts = {"texts": f"{corpus.n_texts:,}", "tokens": f"{corpus.n_counted:,}"}
    return {"description": study.description, **facts} if study.description else facts


def site_finding(study: Study, folder: StudyFolder, checkpoints: Sequence[Checkpoint]) -> Finding | None:
    """The paper's finding in the last checkpoint that has data; None if there is none.

    Of its layers, those that pages were rendered from: what the site is made from is told by the pages' fingerprints.
    """
    for checkpoint in reversed(checkpoints):
        layers = []
        for layer in study.model.layer_numbers:
            aggregate, weights = folder.aggregate(checkpoint.key, layer), folder.weights(checkpoint.key, layer)
            files = (aggregate / "statistics.parquet", weights, folder.page_report(checkpoint.key, layer))
            if all(file.is_file() for file in files):
                layers.append((layer, aggregate, weights))
        if layers:
            return gate_frequency_finding(checkpoint.key, layers)
    return None


def build_published_site(study: Study) -> dg.AssetsDefinition:
    """The site in its public place. It has no automation: a person decides."""

    @dg.asset(
        **attributes(study, "published_site", "site", {"html"}),
        deps=[[study.name, "site"]],
        description="A copy of the site in the folder that publish.folder names. Started by a person.",
    )
    def published_site(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult[None]:
        source, target = storage.of(study).site, study.publish.folder
        if target is None:
            raise InputError(f"{study.file}: publish.folder is missing; name the folder that receives the site.")
        if not (source / MANIFEST).is_file():
            raise InputError(f"{source} holds no site; materialize it first.")
        if target.exists() and any(target.iterdir()) and not (target / MANIFEST).is_file():
            raise InputError(f"{target} holds something other than a site; empty it or set publish.folder to another one.")
        with replacing_folder(target) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
        return dg.MaterializeResult(metadata={"bytes": size_of(target), "path": dg.MetadataValue.path(target / "index.html")})

    return published_site
