"""`gluscope inspect`: what gated MLPs a model has and what a study of it would cost, told from its configuration alone.

The counting belongs to `core/model/inspection.py`.
"""

import math
import re
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import Checkpoint, fetch_config
from gluscope_assets.core.model.discovery import slug
from gluscope_assets.core.model.inspection import Inspection, inspect_checkpoint, spans, write_study
from gluscope_assets.core.options import CheckpointOptions, CollectionOptions, CorpusOptions


def inspect_model(
    model: Annotated[str, Parameter(help="A folder with config.json, or a Hub id.")],
    /,
    *,
    revision: Annotated[str | None, Parameter(help="A Hub commit, tag or branch (default: the main branch).")] = None,
    stack: Annotated[Literal["encoder", "decoder"] | None, Parameter(help="Which stack of a model that has both.")] = None,
    tokens: Annotated[int, Parameter(help="Of the corpus.")] = 20_000_000,
    write: Annotated[Path | None, Parameter(help="A file for a study of the model.")] = None,
) -> None:
    """Print what a model has and would cost; write a study file if asked to."""
    if tokens < 1:
        raise InputError(f"--tokens {tokens} is no size of a corpus; give at least 1.")
    options, folder = _checkpoint(model, revision)
    # The weights are not hashed here: there may be none.
    inspection = inspect_checkpoint(Checkpoint(options.name, folder, ""), stack)
    _print_mlps(model, inspection)
    _print_cost(inspection, tokens)
    if write is not None:
        write_study(inspection, options, write)
        print(f"Wrote {write}.")


def _checkpoint(model: str, revision: str | None) -> tuple[CheckpointOptions, Path]:
    """How a study would name the checkpoint, and the folder of its config.json. InputError if there is none."""
    path = Path(model)
    if path.is_dir():
        if revision is not None:
            raise InputError(f"{path} is a folder and has no revisions; leave out --revision.")
        folder = path.resolve()
        options = CheckpointOptions(name=slug(folder.name), path=folder)
    elif re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", model):
        folder, commit = fetch_config(model, revision)
        options = CheckpointOptions(name=slug(revision or commit[:7]), repository=model, revision=commit)
    else:
        raise InputError(f"There is no folder {model}; give one with config.json, or a Hub id such as owner/name.")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json; give the folder of a saved model or a Hub id.")
    return options, folder


def _print_mlps(model: str, inspection: Inspection) -> None:
    table = Table("layers", "MLP", "experts", "neurons", "σ", "tapped", box=None, header_style="bold")
    for group in inspection.groups:
        experts = "" if group.experts is None else str(group.experts)
        table.add_row(spans(group.layers), group.mlp, experts, f"{group.width:,}", group.activation, group.tap)
    stack = f", {inspection.stack}" if inspection.stack else ""
    print(f"{model}: {inspection.model}{stack}, {_rounded(inspection.parameters)} parameters without its head")
    if inspection.routed is not None:
        met = _rounded(inspection.active_parameters)
        print(f"Each token is routed to {inspection.routed} experts and meets {met} parameters.")
    Console().print(table)


def _print_cost(inspection: Inspection, tokens: int) -> None:
    """With the options that a study has by itself."""
    collection, corpus = CollectionOptions(), CorpusOptions(source="standard_library")
    shards = math.ceil(tokens / (corpus.pack_tokens * corpus.shard_packs))
    lists = f"K = {collection.examples}, windows of {collection.window} positions"
    print(f"{inspection.neurons:,} neurons in {len(inspection.layers)} layers. A checkpoint on {tokens:,} tokens takes about")
    print(f"  {inspection.flops(tokens):.2e} FLOPs for the forward pass")
    print(f"  {decimal(int(inspection.shard_bytes(collection, shards)))} of activation shards, {shards:,} a layer")
    print(f"  {decimal(int(inspection.aggregate_bytes(collection)))} of aggregates ({lists})")
    print(f"  {decimal(int(inspection.page_bytes()))} of pages, if every neuron gets one")


def _rounded(count: int) -> str:
    """`8.0 B`, `1.3 M`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
