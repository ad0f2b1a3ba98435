"""What the pages of a study are made from: its site map, and where the tables of each layer lie.

Building and serving ask here, so that both make the same page. Nothing is rendered here.
"""

from collections.abc import Sequence

import pyarrow.parquet as pq

from gluscope_assets.core.files import read_provenance
from gluscope_assets.core.model.checkpoint import Checkpoint, fetch_config
from gluscope_assets.core.options import CorpusOptions, PageSelection
from gluscope_assets.core.pages.layer_source import LayerSource
from gluscope_assets.core.pages.selection import with_lists
from gluscope_assets.core.pages.site_map import SiteMap, mlp_blocks_of
from gluscope_assets.core.paths import LayerTables, StudyFolder
from gluscope_assets.study.study import Study


def corpus_label(options: CorpusOptions) -> str:
    """The corpus in a few words."""
    return "Python's standard library" if options.path is None else options.path.stem


def built_tables(study: Study, folder: StudyFolder, checkpoints: Sequence[Checkpoint]) -> dict[tuple[str, int], LayerTables]:
    """The tables of each layer that has aggregate and weights, by (checkpoint key, layer)."""
    every = (folder.tables(checkpoint.key, layer) for checkpoint in checkpoints for layer in study.model.layer_numbers)
    return {(tables.checkpoint_key, tables.layer): tables for tables in every if tables.are_there}


def site_map(
    study: Study, folder: StudyFolder, checkpoints: Sequence[Checkpoint], pages: Sequence[PageSelection] | None = None
) -> SiteMap:
    """The study as the renderer sees it, with the `pages` of the study or others; `checkpoints` are in the order of training.

    Checkpoints of one model have equal layers; those that are built tell their width and MLPs.
    """
    tables = built_tables(study, folder, checkpoints)
    # Of each layer those of its first checkpoint.
    statistics = {of_layer.layer: of_layer.statistics for of_layer in reversed(tables.values())}
    layers = sorted(statistics)
    named = tuple((checkpoint.key, checkpoint.name) for checkpoint in checkpoints)
    selections = study.site.pages if pages is None else pages
    return SiteMap(
        study=study.name,
        title=study.title,
        model=study.model.name,
        corpus=corpus_label(study.corpus),
        checkpoints=named,
        layers=tuple((layer, pq.read_metadata(statistics[layer]).num_rows) for layer in layers),
        pages=with_lists(selections, named, study.model.layer_numbers, tables, study.site.view),
        mlp_blocks=tuple((layer, blocks) for layer in layers if (blocks := mlp_blocks_of(statistics[layer]))),
        view=study.site.view,
    )


def built_checkpoints(study: Study, folder: StudyFolder) -> list[Checkpoint]:
    """The study's checkpoints that have aggregates, in the order of training, without hashing their weights.

    Of several with one name, which had other weights once, the one whose aggregates are newest.
    """
    built = []
    for options in study.model.checkpoints:
        newest = max(folder.statistics_of(options.name), key=lambda path: path.stat().st_mtime_ns, default=None)
        if newest is not None:
            source = options.path or fetch_config(options.repository or "", options.revision)[0]
            built.append(Checkpoint(options.name, source, str(read_provenance(newest)["weights_hash"])))
    return built


def rendered_tables(study: Study, folder: StudyFolder, checkpoint: Checkpoint) -> list[LayerTables]:
    """The tables of the layers that pages were rendered from: what a site is made from is told by its pages' fingerprints."""
    every = (folder.tables(checkpoint.key, layer) for layer in study.model.layer_numbers)
    return [tables for tables in every if tables.are_there and folder.page_report(checkpoint.key, tables.layer).is_file()]


def all_sources(study: Study, folder: StudyFolder) -> list[LayerSource]:
    """What the pages of every layer that has tables are made from, in the order of checkpoints and layers."""
    checkpoints = built_checkpoints(study, folder)
    every = PageSelection(checkpoints="all", neurons="all")
    pages = site_map(study, folder, checkpoints, [every])
    return [
        layer_source(study, folder, pages, checkpoint, layer)
        for checkpoint in checkpoints
        for layer in study.model.layer_numbers
        if folder.tables(checkpoint.key, layer).are_there
    ]


def layer_source(study: Study, folder: StudyFolder, pages: SiteMap, checkpoint: Checkpoint, layer: int) -> LayerSource:
    """What the pages of one layer of one checkpoint are made from."""
    return LayerSource(
        site_map=pages,
        checkpoint_key=checkpoint.key,
        layer=layer,
        aggregate=folder.aggregate(checkpoint.key, layer),
        weights=folder.weights(checkpoint.key, layer),
        corpus=folder.corpus,
        tokenizer=checkpoint.folder,
        count_special_tokens=study.collection.count_special_tokens,
    )
