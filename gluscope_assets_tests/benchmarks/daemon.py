"""Build the demo through the daemon, two runs beside each other, as `deployment/` starts it.

Run by hand: python -m gluscope_assets_tests.benchmarks.daemon [--storage sqlite] [--runs 2]. Prints when each run ran and
what the logs say of locks.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import rich.table
from rich.console import Console

from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.orchestration.partitions import RANGE_END_TAG, RANGE_START_TAG
from gluscope_assets.orchestration.resources import GPU_POOL
from gluscope_assets.study.fingerprints import LAYER_STAGES, partition_key
from gluscope_assets.study.study import SHIPPED, load_study
from gluscope_assets_tests.support.deployed import DAGSTER_YAML, SERVICES, Deployed, deployed, until


def build(services: Deployed, instance: dg.DagsterInstance, runs: Sequence[str]) -> None:
    """Wait until runs have ended well."""
    services.wait(lambda: all(instance.get_run_by_id(run).is_finished for run in runs), 3600)  # type: ignore[union-attr]
    failed = [run for run in runs if not instance.get_run_by_id(run).is_success]  # type: ignore[union-attr]
    if failed:
        raise RuntimeError(f"runs {failed} failed:\n{services.log('code')[-4000:]}")


def main() -> None:
    """Build, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--storage", choices=DAGSTER_YAML, default="postgresql")
    parser.add_argument("--runs", type=int, default=2, help="that run at once (default: 2)")
    options = parser.parse_args()
    study = load_study(SHIPPED / "demo.yaml")
    keys = [resolve_checkpoint(given).key for given in study.model.checkpoints]
    layers = study.model.layer_numbers

    def settings(text: str) -> str:
        (line,) = [line for line in text.splitlines() if "max_concurrent_runs:" in line]
        return text.replace(line, f"    max_concurrent_runs: {options.runs}")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "studies").mkdir()
        with (
            deployed(folder / "deployed", folder / "home", folder / "studies", options.storage, settings) as services,
            services.instance() as instance,
        ):
            services.stop_sensors(["automation_cpu"])
            services.start("daemon")
            began = time.time()
            until(lambda: len(instance.get_dynamic_partitions("demo_checkpoints")) == len(keys), "the checkpoints")
            build(services, instance, [services.launch("demo", ["tokenized_corpus"])])
            ends = [[partition_key(key, layer) for layer in (layers[0], layers[-1])] for key in keys]
            tags = [{RANGE_START_TAG: first, RANGE_END_TAG: last} for first, last in ends]
            build(services, instance, [services.launch("demo", list(LAYER_STAGES), tag) for tag in tags])
            build(services, instance, [services.launch("demo", ["site"])])
            ended = time.time()
            table = rich.table.Table("run", "from", "to", box=None, header_style="bold")
            for record in sorted(instance.get_run_records(), key=lambda record: record.start_time or 0):
                run = record.dagster_run
                label = run.tags.get(RANGE_START_TAG) or ", ".join(key.path[-1] for key in run.asset_selection or ())
                table.add_row(label, *(f"{(moment or 0) - began:.0f} s" for moment in (record.start_time, record.end_time)))
            held = services.pool(GPU_POOL)
            logs = "".join(services.log(service) for service in SERVICES)
    Console().print(table)
    print(f"{options.storage}, {options.runs} runs at once: the demo in {ended - began:.0f} s")
    print(f"slots still held: {held and held['activeSlotCount']}; database is locked: {logs.count('database is locked')} times")
    sys.exit("Traceback" in logs)


if __name__ == "__main__":
    main()
