"""Partitions: a study's checkpoints, its layers and their product.

A checkpoint's key is its name and a piece of its weights' hash (`core/checkpoint.py`), so it never changes meaning.
"""

from collections.abc import Iterable

import dagster as dg

from gluscope_assets.core.paths import layer_name
from gluscope_assets.study.fingerprints import named_layer
from gluscope_assets.study.study import Study

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
PARTITION_TAG = "dagster/partition"


def checkpoint_partitions(study: Study) -> dg.DynamicPartitionsDefinition:
    """The checkpoints of a study; keys are added as checkpoints appear."""
    return dg.DynamicPartitionsDefinition(name=f"{study.name}_checkpoints")


def layer_partitions(study: Study) -> dg.MultiPartitionsDefinition:
    """Checkpoint × layer."""
    layers = dg.StaticPartitionsDefinition([layer_name(layer) for layer in study.model.layer_numbers])
    return dg.MultiPartitionsDefinition({"checkpoint": checkpoint_partitions(study), "layer": layers})


def by_checkpoint(partition_keys: Iterable[str]) -> dict[str, list[int]]:
    """The layers of each checkpoint among `partition_keys`: checkpoints in the order given, layers sorted."""
    layers: dict[str, list[int]] = {}
    for key in partition_keys:
        checkpoint_key, layer = named_layer(key)
        layers.setdefault(checkpoint_key, []).append(layer)
    return {checkpoint_key: sorted(of_checkpoint) for checkpoint_key, of_checkpoint in layers.items()}
