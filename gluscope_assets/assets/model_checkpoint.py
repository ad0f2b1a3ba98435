"""The model's checkpoints, which this project does not make."""

import dagster as dg

from gluscope_assets.orchestration.partitions import checkpoint_partitions
from gluscope_assets.orchestration.records import OWNERS
from gluscope_assets.study.study import Study


def build_model_checkpoint(study: Study) -> dg.AssetSpec:
    """The checkpoints, made elsewhere: reported by `records.checkpoint_event`, never materialized."""
    return dg.AssetSpec(
        [study.name, "model_checkpoint"],
        partitions_def=checkpoint_partitions(study),
        group_name="model",
        kinds={"huggingface"},
        owners=OWNERS,
        description="One set of weights of the model. Its data version is the hash of the weights.",
    )
