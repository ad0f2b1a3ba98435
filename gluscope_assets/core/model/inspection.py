"""What a model would cost and what it has, before anything is computed: what `gluscope inspect` says.

What belongs here: counting on a model without weights, the estimates, and the study file that follows. Finding the gated
MLPs is in `anatomy`; printing is in the command line.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import replacing
from gluscope_assets.core.model.checkpoint import Checkpoint
from gluscope_assets.core.model.loading import base_model, layers_option, read_anatomy, read_config
from gluscope_assets.core.options import CheckpointOptions, CollectionOptions
from gluscope_assets.core.quadrants import LISTS

if TYPE_CHECKING:
    from gluscope_assets.core.model.gated_mlp import GatedMLP, Stack

STATISTICS_BYTES = 500
"""A neuron's statistics on disk (docs/benchmarks.md)."""

EXAMPLE_BYTES = 4.6
"""A position of an example's window on disk, its tokens, values and positions included (docs/benchmarks.md)."""

SAMPLE_BYTES = 3.7
"""A sampled position of a neuron on disk (docs/benchmarks.md)."""

PAGE_BYTES = 104_000
"""A neuron's page."""

ROUTED = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts", "moe_top_k", "router_topk", "moe_k")
"""What configs call the number of experts that a token is routed to."""


@dataclass(frozen=True)
class MLPGroup:
    """MLPs that are alike, of one or several layers."""

    layers: tuple[int, ...]
    mlp: str
    """The path inside the layer."""
    experts: int | None
    """None where all tokens go through it."""
    width: int
    """Neurons, of each expert."""
    activation: str
    tap: str
    """The parameters whose products are tapped: gate, in, and the one that post enters."""


@dataclass(frozen=True)
class Inspection:
    """What there is to say of a model."""

    model: str
    """Its class in transformers."""
    stack: "Stack | None"
    layers: tuple[int, ...]
    groups: tuple[MLPGroup, ...]
    neurons: int
    parameters: int
    """Of the base model."""
    active_parameters: int
    """Those that one token meets, without embeddings."""
    routed: int | None
    """Experts that a token is routed to."""
    vocabulary: int

    def flops(self, tokens: int) -> float:
        """Of one forward pass over so many tokens: two for each parameter that a token meets, attention's scores left out."""
        return 2.0 * self.active_parameters * tokens

    def shard_bytes(self, options: CollectionOptions, shards: int) -> float:
        """All activation shards of one checkpoint: each holds examples of its own, the sample is spread over them."""
        sample = SAMPLE_BYTES * options.sample_positions * self.neurons
        return shards * (self.aggregate_bytes(options) - sample) + sample

    def aggregate_bytes(self, options: CollectionOptions) -> float:
        """The merged tables of one checkpoint."""
        examples = len(LISTS) * options.examples * options.window * EXAMPLE_BYTES
        return self.neurons * (STATISTICS_BYTES + examples + SAMPLE_BYTES * options.sample_positions)

    def page_bytes(self) -> int:
        """A page for each neuron of one checkpoint."""
        return self.neurons * PAGE_BYTES


def inspect_checkpoint(checkpoint: Checkpoint, stack: "Stack | None" = None) -> Inspection:
    """Look through a checkpoint without reading its weights, where that suffices. InputError as `look_through`."""
    config = read_config(checkpoint)
    anatomy = read_anatomy(checkpoint, stack)
    model: Any = base_model(checkpoint)
    embedding = model.get_input_embeddings().weight
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    routed = _routed(config)
    expert_parameters = _expert_parameters(anatomy.mlps, sizes)
    experts = max((mlp.expert for mlp in anatomy.mlps if mlp.expert is not None), default=-1) + 1
    idle = int(expert_parameters * (1 - routed / experts)) if routed is not None and experts else 0
    return Inspection(
        model=type(model).__name__,
        stack=stack,
        layers=tuple(sorted({mlp.layer for mlp in anatomy.mlps})),
        groups=tuple(_groups(anatomy.mlps)),
        neurons=sum(mlp.width for mlp in anatomy.mlps),
        parameters=sum(sizes.values()),
        active_parameters=sum(sizes.values()) - embedding.numel() - idle,
        routed=routed if experts else None,
        vocabulary=int(embedding.shape[0]),
    )


def _routed(config: Any) -> int | None:
    text = config.get_text_config(decoder=True)
    return next((int(value) for name in ROUTED if isinstance(value := getattr(text, name, None), int)), None)


def _expert_parameters(mlps: "Sequence[GatedMLP]", sizes: dict[str, int]) -> int:
    """Parameters of all experts that tokens are routed to."""
    names = {projection.parameter for mlp in mlps if mlp.expert is not None for projection in mlp.projections}
    return sum(sizes.get(name, 0) for name in names)


def _groups(mlps: "Sequence[GatedMLP]") -> list[MLPGroup]:
    def kind(mlp: "GatedMLP") -> tuple[str, int, str]:
        return mlp.name, mlp.width, mlp.activation

    groups = []
    for (name, width, activation), members in groupby(sorted(mlps, key=kind), kind):
        alike = list(members)
        experts = {mlp.expert for mlp in alike}
        tap = ", ".join(dict.fromkeys(_inside_layer(projection.parameter) for projection in alike[0].projections))
        layers = tuple(sorted({mlp.layer for mlp in alike}))
        groups.append(MLPGroup(layers, name, None if experts == {None} else len(experts), width, activation, tap))
    return sorted(groups, key=lambda group: (group.layers, group.mlp))


def _inside_layer(parameter: str) -> str:
    return re.sub(r"^.*?\.\d+\.", "", parameter).removesuffix(".weight")


def spans(numbers: Sequence[int]) -> str:
    """`0–3, 5` for 0, 1, 2, 3, 5."""
    ends = [number for number in numbers if number + 1 not in numbers]
    begins = [number for number in numbers if number - 1 not in numbers]
    return ", ".join(f"{first}–{last}" if last > first else str(first) for first, last in zip(begins, ends, strict=True))


def write_study(inspection: Inspection, options: CheckpointOptions, file: Path) -> None:
    """Write a study file of one checkpoint, with a folder `texts` beside it as its corpus. InputError if the file exists."""
    if file.exists():
        raise InputError(f"{file} exists; choose another name or remove it.")
    name = (options.repository or str(options.path)).rstrip("/").split("/")[-1]
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if options.path is not None:
        source = {"path": str(options.path.resolve())}
    else:
        source = {"repository": str(options.repository), "revision": str(options.revision)}
    model: dict[str, Any] = {"name": name, "layers": layers_option(inspection.layers)}
    if inspection.stack is not None:
        model["stack"] = inspection.stack
    content = {
        "name": (slug if slug[:1].isalpha() else f"model_{slug}")[:40],
        "title": name,
        "model": {**model, "dtype": "auto", "checkpoints": [{"name": options.name, **source}]},
        "corpus": {"source": "folder", "path": "texts", "text_tokens": 256},
        "site": {"pages": [{"checkpoints": "last", "neurons": 64}]},
    }
    comment = "# Written by gluscope inspect. Say in corpus which texts to read; relative paths start at this file.\n"
    with replacing(file) as temporary:
        temporary.write_text(comment + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
