"""Resources: where results are stored, which device computes, how progress is shown.

Paths are made in `folders`. Nothing is computed or read here.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import dagster as dg
import rich.progress
from rich.console import Console
from rich.table import Column
from rich.text import Text

from gluscope_assets.core.paths import StudyFolder
from gluscope_assets.core.progress import Progress
from gluscope_assets.study.study import Study


class Storage(dg.ConfigurableResource["Storage"]):
    """The home folder."""

    home: str

    def of(self, study: Study) -> StudyFolder:
        """The folder of one study."""
        return StudyFolder(Path(self.home) / study.name)


GPU_POOL = "gpu"
"""The pool of everything that computes on the device."""


class Device(dg.ConfigurableResource["Device"]):
    """What the model runs on: `auto` takes all GPUs, or the CPU if there is none."""

    name: str = "auto"
    processes: int | None = None
    """Processes that share the CPU; as many as its cores keep busy if absent."""

    def all(self) -> list[str]:
        """The names that torch knows, one a process."""
        from gluscope_assets.core.model.loading import all_devices

        return all_devices() if self.name == "auto" else [self.name]


class ProgressDisplay(dg.ConfigurableResource["ProgressDisplay"]):
    """How a long stage shows that it moves: bars in a terminal, lines elsewhere, or lines in the run's own log."""

    style: Literal["bars", "lines", "log"] = "log"

    @contextmanager
    def show(self, context: dg.AssetExecutionContext, label: str, unit: str) -> "Iterator[Pace]":
        """Yield a function to call with (done, total), in `unit`, which measures the pace."""
        if self.style == "bars":
            with progress_bars(Console(stderr=True)) as bars:
                task = bars.add_task(label, total=None, unit=unit)
                yield Pace(unit, lambda done, total: bars.update(task, completed=done, total=total))
                if bars.tasks[task].total is None:
                    # There was nothing to do.
                    bars.remove_task(task)
        elif self.style == "lines":
            yield Pace(unit, ProgressLines(label, unit, lambda line: print(line, file=sys.stderr, flush=True), interval=5.0))
        else:
            # Every line is an event of the run, and an event log with many events is slow to open.
            yield Pace(unit, ProgressLines(label, unit, context.log.info, interval=30.0))


class Pace:
    """Hands progress on and keeps how fast it went."""

    def __init__(self, unit: str, show: Progress) -> None:
        self.unit, self.show, self.done, self.began = unit, show, 0, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        self.done = done
        self.show(done, total)

    def metadata(self) -> dict[str, float]:
        """What a stage reports: seconds so far, and its rate over all partitions of the run."""
        seconds = time.monotonic() - self.began
        return {"seconds": seconds, f"{self.unit} per second": self.done / max(seconds, 1e-3)}


class ProgressLines:
    """Progress as lines of text: one every `interval` seconds, and one at the end."""

    def __init__(self, label: str, unit: str, write: Callable[[str], None], interval: float) -> None:
        self.label, self.unit, self.write, self.interval = label, unit, write, interval
        self.started = self.written = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.written < self.interval and done < total:
            return
        self.written = now
        rate = done / max(now - self.started, 1e-3)
        end = f"{_clock(now - self.started)} in all" if done >= total else f"{_clock((total - done) / max(rate, 1e-9))} left"
        self.write(f"{self.label}: {done:,} of {total:,} {self.unit}, {rate:,.0f} {self.unit}/s, {end}")


def progress_bars(console: Console) -> rich.progress.Progress:
    """Bars with the work done, its rate and the time left."""
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        # Narrow, so that a line fits a terminal of 80 columns.
        rich.progress.BarColumn(bar_width=12),
        _WorkColumn(table_column=Column(no_wrap=True)),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )


class _WorkColumn(rich.progress.ProgressColumn):
    """`1,200/9,000 tokens, 350/s`."""

    def render(self, task: rich.progress.Task) -> Text:
        if task.total is None:
            return Text("starting")
        unit = task.fields["unit"]
        rate = f", {task.completed / task.elapsed:,.0f}/s" if task.elapsed else ""
        return Text(f"{int(task.completed):,}/{int(task.total):,} {unit}{rate}")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
