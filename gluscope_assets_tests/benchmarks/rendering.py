"""What rendering takes: pages a second, memory, bytes and files of a neuron, and the wait for a page that nobody has built.

Run by `python -m gluscope_assets_tests.benchmarks.rendering` after `make demo`, whose tables it reads. It renders all neurons
of the demo's last checkpoint into temporary folders, with one process and with two, by turns, and prints Markdown tables.
With `--wide 16384` it also makes a layer of that many neurons from copies of the demo's, which takes minutes and gigabytes.
"""

import argparse
import gzip
import multiprocessing
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.pages.layer_source import LayerSource
from gluscope_assets.core.pages.rendering import render_layers
from gluscope_assets.core.paths import StudyFolder, default_home
from gluscope_assets.study.study import SHIPPED, load_study

if TYPE_CHECKING:
    # A worker imports this module again, and should find it as light as the command line's.
    from gluscope_assets.core.serve.on_demand import OnDemand

RUNS = 5
PROCESSES = (1, 2)
REQUESTS = 40


@dataclass(frozen=True)
class Run:
    pages: int
    seconds: float
    core_seconds: float
    """Of all processes, starting them included: on a busy machine it says more."""
    memory: float
    """Peak in MB of the process that is asked."""
    worker_memory: float
    """Of the largest process that it started."""

    @property
    def row(self) -> str:
        cores = f"{1000 * self.core_seconds / self.pages:.2f} ms"
        return f"{self.pages / self.seconds:.0f} | {cores} | {self.memory:.0f} MB | {self.worker_memory:.0f} MB |"


def demo_sources() -> list[LayerSource]:
    """The layers of all checkpoints of the built demo."""
    from gluscope_assets.study.sources import all_sources

    study, folder = load_study(SHIPPED / "demo.yaml"), StudyFolder(default_home() / "demo")
    sources = all_sources(study, folder)
    if len(sources) != len(study.model.layer_numbers) * len(study.model.checkpoints):
        raise InputError(f"{folder.root} lacks tables of the demo; run make demo first.")
    return sources


def render(sources: Sequence[LayerSource], processes: int, site: Path, answers: Connection) -> None:
    """In a process of its own: render into a folder that is not there and answer what it took."""
    began = time.perf_counter()
    pages = sum(report.pages for report in render_layers(site, sources, processes=processes))
    seconds = time.perf_counter() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cores = sum(one.ru_utime + one.ru_stime for one in used)
    answers.send(Run(pages, seconds, cores, used[0].ru_maxrss / 1024, used[1].ru_maxrss / 1024))


def measured(sources: Sequence[LayerSource], processes: int, site: Path) -> Run:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    run = context.Process(target=render, args=(sources, processes, site, there))
    run.start()
    there.close()
    try:
        found: Run = here.recv()
    except EOFError as error:
        raise RuntimeError("rendering failed") from error
    finally:
        run.join()
    return found


def print_speed(last: Sequence[LayerSource], every: Sequence[LayerSource], folder: Path) -> None:
    # Nothing is deleted before the end: ext4 creates files ten times slower for minutes after many were deleted.
    runs: dict[int, list[Run]] = {processes: [] for processes in PROCESSES}
    for number in range(RUNS):
        for processes in PROCESSES:
            runs[processes].append(measured(last, processes, folder / f"{processes} processes, run {number}"))
            print(f"run {number + 1}, processes {processes}: {runs[processes][-1].row}", file=sys.stderr, flush=True)
    print("| processes | pages | seconds (range) | pages a second | core time a page | peak memory | of a worker |")
    print("|---|---|---|---|---|---|---|")
    for processes, found in runs.items():
        seconds = sorted(run.seconds for run in found)
        middle = next(run for run in found if run.seconds == seconds[RUNS // 2])
        print(f"| {processes} | {middle.pages:,} | {middle.seconds:.2f} ({seconds[0]:.2f}–{seconds[-1]:.2f}) | {middle.row}")
    once = measured(every, PROCESSES[-1], folder / "every checkpoint")
    print(f"| {PROCESSES[-1]} | {once.pages:,} | {once.seconds:.2f} (once) | {once.row}")


def print_weight(last: Sequence[LayerSource], folder: Path) -> None:
    from gluscope_assets.core.site.site import render_site

    list(render_layers(folder, last))
    render_site(folder, last[0].site_map)
    neurons: dict[Path, list[tuple[int, int]]] = {}
    shared: list[tuple[int, int]] = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            sizes = len(content), len(gzip.compress(content, 6, mtime=0))
            is_own = path.stem.isdigit()
            (neurons.setdefault(path.with_suffix(""), []) if is_own else shared).append(sizes)
    raw, packed = (np.array([sum(size[place] for size in files) for files in neurons.values()]) for place in (0, 1))
    files = [len(found) for found in neurons.values()]
    print("\n| of a neuron | here, mean (most) | gzip -6, mean (most) | the paper's |\n|---|---|---|---|")
    print(f"| files | {statistics.mean(files):.1f} ({max(files)}) | | 225 |")
    print(
        f"| bytes | {raw.mean() / 1000:.1f} KB ({raw.max() / 1000:.1f} KB) "
        f"| {packed.mean() / 1000:.1f} KB ({packed.max() / 1000:.1f} KB) | 13–18 MB |"
    )
    total, small = (sum(size[place] for size in shared) for place in (0, 1))
    print(f"| shared by all {len(neurons):,} | {len(shared)} files, {total / 1000:.0f} KB | {small / 1000:.0f} KB | |")


def widen(path: Path, target: Path, neurons: int) -> None:
    """A table of `neurons` rows, copies of those in `path` one after the other, as row groups of 64."""
    table = pq.read_table(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(target, table.schema, compression="zstd", compression_level=1) as writer:
        for first in range(0, neurons, len(table)):
            part = table.slice(0, neurons - first)
            numbers = pa.array(np.arange(first, first + len(part), dtype=np.int32))
            for name in ("neuron", "index"):
                if name in part.column_names:
                    part = part.set_column(part.column_names.index(name), part.schema.field(name), numbers)
            writer.write_table(part, row_group_size=64)


def wide_source(source: LayerSource, neurons: int, folder: Path) -> LayerSource:
    for name in ("statistics", "examples", "sample"):
        widen(source.aggregate / f"{name}.parquet", folder / "aggregate" / f"{name}.parquet", neurons)
    shutil.copy(source.aggregate / "positions.parquet", folder / "aggregate")
    widen(source.weights, folder / "weights.parquet", neurons)
    site_map = replace(source.site_map, layers=((source.layer, neurons),))
    return replace(source, site_map=site_map, aggregate=folder / "aggregate", weights=folder / "weights.parquet")


def seconds_of(served: "OnDemand", source: LayerSource, name: object) -> float:
    began = time.perf_counter()
    assert served.file(f"{source.checkpoint_key}/{source.layer:02d}/{name}.html") is not None
    return time.perf_counter() - began


def print_latency(sources: Sequence[LayerSource]) -> None:
    from gluscope_assets.core.serve.on_demand import OnDemand

    print("\n| a page that nobody has built | the first | a further one, median (most) | the layer's own |\n|---|---|---|---|")
    for source in sources:
        width = dict(source.site_map.layers)[source.layer]
        with closing(OnDemand(Path("none"), [source])) as served:
            first = seconds_of(served, source, width // 2)
            chosen = np.random.default_rng(0).choice(width, min(REQUESTS, width), replace=False)
            others = [seconds_of(served, source, neuron) for neuron in chosen]
            index = seconds_of(served, source, "index")
        print(
            f"| of {width:,} neurons | {first * 1000:.0f} ms | {statistics.median(others) * 1000:.0f} ms "
            f"({max(others) * 1000:.0f} ms) | {index * 1000:.0f} ms |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--wide", type=int, metavar="NEURONS", help="also serve a layer of so many neurons")
    options = parser.parse_args()
    try:
        every = demo_sources()
    except InputError as error:
        sys.exit(f"rendering: {error}")
    last = [source for source in every if source.checkpoint_key == every[-1].checkpoint_key]
    with tempfile.TemporaryDirectory() as folder:
        print_speed(last, every, Path(folder))
        print_weight(last, Path(folder, "site"))
        wide = [wide_source(last[0], options.wide, Path(folder, "wide"))] if options.wide else []
        print_latency([last[0], *wide])


if __name__ == "__main__":
    main()
