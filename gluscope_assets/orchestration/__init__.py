"""What makes a study's stages Dagster's: partitions, checks, automation, jobs, sensors, resources, retries, alerts, records.

Here: whatever needs Dagster and is not one stage. What does not belong here: what a stage computes (`core`), what a study is
and what its results are made from (`study`), the wiring of one stage (`assets`), and what runs because a person types a
command (`commands`).
"""

__all__ = [
    "alerts",
    "automation",
    "checks",
    "jobs",
    "launcher",
    "partitions",
    "records",
    "resources",
    "retries",
    "sensors",
    "stage_assets",
]
