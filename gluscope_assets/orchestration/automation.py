"""What runs by itself: the condition under which an asset is materialized, and the sensors that look.

A stage runs again when the content of something it reads changes, not whenever that is merely written again.
"""

import dagster as dg

WHEN_INPUTS_CHANGE = (
    dg.AutomationCondition.eager()
    .replace("newly_updated", dg.AutomationCondition.data_version_changed())
    .with_label("when inputs change")
)
"""As `eager`, for inputs with a new data version."""


def automation_sensors(studies: list[str]) -> list[dg.AutomationConditionSensorDefinition]:
    """Two sensors: one for the stages that any machine runs, and one, stopped at first, for those that want a GPU."""
    gpu = dg.AssetSelection.assets(*([study, "activation_shards"] for study in studies))
    return [
        dg.AutomationConditionSensorDefinition(
            "automation_cpu",
            target=dg.AssetSelection.all() - gpu,
            default_status=dg.DefaultSensorStatus.RUNNING,
            description="Materializes the stages that need no GPU when their inputs change.",
        ),
        dg.AutomationConditionSensorDefinition(
            "automation_gpu",
            target=gpu,
            default_status=dg.DefaultSensorStatus.STOPPED,
            description="Collects activations when a checkpoint or the corpus changes. Start it where a GPU is at hand.",
        ),
    ]
