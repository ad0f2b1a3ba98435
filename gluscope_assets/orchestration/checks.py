"""Asset checks: each result is verified in the run that made it, and wrong data goes no further.

What is verified is decided in `core/verify.py` and `core/links.py`. The checks are not partitioned, because Dagster records
a partitioned check of a range run without its partition; they find the partitions in the tags of their run.
"""

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg

from gluscope_assets.core.collect.shards import LAYERS_AT_ONCE
from gluscope_assets.core.collect.verify import CHECKS, verify_aggregate
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.paths import StudyFolder, layer_neuron_pages
from gluscope_assets.core.site.links import PAGE_LIMIT, broken_links, oversized_pages
from gluscope_assets.orchestration.partitions import PARTITION_TAG, RANGE_END_TAG, RANGE_START_TAG, layer_partitions
from gluscope_assets.orchestration.resources import Storage
from gluscope_assets.study.fingerprints import named_layer
from gluscope_assets.study.study import Study

PROBLEMS_SHOWN = 20


def build_checks(study: Study) -> list[dg.AssetChecksDefinition]:
    """The checks of a study."""
    return [aggregate_checks(study), page_check(study), site_check(study)]


def aggregate_checks(study: Study) -> dg.AssetChecksDefinition:
    """The checks of the aggregates that a run has just written. What fails is set aside, so that no later run reads it."""
    asset = dg.AssetKey([study.name, "quadrant_aggregates"])

    @dg.multi_asset_check(
        name=f"{study.name}_aggregate_checks",
        specs=[dg.AssetCheckSpec(check.__name__, asset=asset, blocking=True, description=check.__doc__) for check in CHECKS],
    )
    def check_aggregates(context: dg.AssetCheckExecutionContext, storage: Storage) -> Iterator[dg.AssetCheckResult]:
        folder = storage.of(study)
        corpus = TokenizedCorpus.open(folder.corpus)
        problems: dict[str, list[str]] = {check.__name__: [] for check in CHECKS}
        layers = built_layers(study, folder, context)
        aggregates = [folder.aggregate(key, layer) for key, layer in layers]
        with ThreadPoolExecutor(LAYERS_AT_ONCE) as pool:
            verified = pool.map(lambda aggregate: verify_aggregate(aggregate, corpus, study.collection), aggregates)
            for (key, _), aggregate, wrong in zip(layers, aggregates, verified, strict=True):
                for name, sentences in wrong.items():
                    problems[name] += [f"{key}: {sentence}" for sentence in sentences]
                if any(wrong.values()):
                    set_aside(aggregate)
        for name, sentences in problems.items():
            yield _result(asset, name, sentences, len(layers))

    return check_aggregates


def page_check(study: Study) -> dg.AssetChecksDefinition:
    """The size of the pages that a run has just rendered."""
    asset = dg.AssetKey([study.name, "neuron_pages"])

    @dg.asset_check(
        asset=asset,
        blocking=True,
        description=f"No neuron's files have more than {PAGE_LIMIT:,} bytes, compressed.",
    )
    def pages_within_budget(context: dg.AssetCheckExecutionContext, storage: Storage) -> dg.AssetCheckResult:
        folder = storage.of(study)
        layers = built_layers(study, folder, context)
        problems = [
            f"{key}, layer {layer}: {sentence}"
            for key, layer in layers
            for sentence in oversized_pages(folder.site, pages=layer_neuron_pages(folder.site, key, layer))
        ]
        return _result(asset, "pages_within_budget", problems, len(layers))

    return pages_within_budget


def site_check(study: Study) -> dg.AssetChecksDefinition:
    """The links of the whole site."""
    asset = dg.AssetKey([study.name, "site"])

    @dg.asset_check(asset=asset, blocking=True, description="Every internal link leads to a file of the site.")
    def links_resolve(storage: Storage) -> dg.AssetCheckResult:
        return _result(asset, "links_resolve", broken_links(storage.of(study).site), None)

    return links_resolve


def built_layers(study: Study, folder: StudyFolder, context: dg.AssetCheckExecutionContext) -> list[tuple[str, int]]:
    """The (checkpoint key, layer) that the run of a check has built; all that are stored if it names none."""
    tags = context.run.tags
    if RANGE_START_TAG in tags:
        ends = dg.PartitionKeyRange(tags[RANGE_START_TAG], tags[RANGE_END_TAG])
        keys = layer_partitions(study).get_partition_keys_in_range(ends, dynamic_partitions_store=context.instance)
        return [named_layer(key) for key in keys]
    return [named_layer(tags[PARTITION_TAG])] if PARTITION_TAG in tags else folder.stored_aggregates()


def set_aside(folder: Path) -> None:
    """Rename a folder that failed, so that nothing is made from it and the next build makes it again."""
    rejected = folder.with_name(f"{folder.name}.rejected")
    shutil.rmtree(rejected, ignore_errors=True)
    folder.rename(rejected)


def _result(asset: dg.AssetKey, name: str, problems: Sequence[str], layers: int | None) -> dg.AssetCheckResult:
    metadata: dict[str, int | dg.MarkdownMetadataValue] = {"problems": len(problems)}
    if layers is not None:
        metadata["layers"] = layers
    if problems:
        shown = "\n".join(f"- {sentence}" for sentence in problems[:PROBLEMS_SHOWN])
        metadata["first problems"] = dg.MetadataValue.md(shown)
    return dg.AssetCheckResult(
        passed=not problems,
        asset_key=asset,
        check_name=name,
        metadata=metadata,
        description=problems[0] if problems else None,
    )
