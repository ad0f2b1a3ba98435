"""Rendering: the pages of layers written into a site, by as many processes as there are cores.

Pages of one layer are made by `layer_pages`; which files a site has is decided by `site_map`, and what stands around the
neuron pages by `core.site.site`. The bytes do not depend on the number of processes.
"""

import multiprocessing
import os
import signal
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, chain, groupby
from pathlib import Path
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.corpus.decoder import TokenDecoder
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import require_file
from gluscope_assets.core.pages.layer_pages import LayerPages, NeuronPage
from gluscope_assets.core.pages.layer_source import LayerSource
from gluscope_assets.core.pages.neuron_view import NeuronSummary
from gluscope_assets.core.pages.shown_texts import ShownTexts
from gluscope_assets.core.pages.templates import write_page
from gluscope_assets.core.pages.vocabulary import Vocabulary
from gluscope_assets.core.paths import INDEX, page_file, pages_folder
from gluscope_assets.core.processes import available_cores, end_with_parent
from gluscope_assets.core.progress import Progress, no_progress

FEWEST_FOR_PROCESSES = 256
"""Pages that are worth starting processes for: they take a second to start, in which this process makes about so many."""


@dataclass(frozen=True)
class RenderReport:
    """What was written."""

    pages: int
    bytes: int
    largest_bytes: int
    samples: tuple[str, ...]
    """Up to three pages, relative to the site."""

    def metadata(self) -> dict[str, str | int | float | Path]:
        """What is said of it."""
        return {"pages": self.pages, "bytes": self.bytes, "largest page": self.largest_bytes}


@dataclass
class Opener:
    """Opens layers one after the other. What was opened last stays open; layers share what they show of texts and tokens."""

    _texts: tuple[Path, ShownTexts] | None = None
    _vocabulary: tuple[Path, Vocabulary] | None = None
    _layer: tuple[tuple[str, int], LayerPages] | None = None

    def texts(self, path: Path) -> ShownTexts:
        """The texts of the tokenized corpus in a file."""
        if self._texts is None or self._texts[0] != path:
            self._texts = path, ShownTexts(TokenizedCorpus.open(path))
        return self._texts[1]

    def vocabulary(self, folder: Path) -> Vocabulary:
        """The tokens of the tokenizer in a folder."""
        if self._vocabulary is None or self._vocabulary[0] != folder:
            self._vocabulary = folder, Vocabulary(TokenDecoder.from_folder(folder))
        return self._vocabulary[1]

    def layer(self, source: LayerSource) -> LayerPages:
        """The pages of a layer."""
        key = source.checkpoint_key, source.layer
        if self._layer is None or self._layer[0] != key:
            self._layer = None
            self._layer = key, LayerPages(source, self.texts(source.corpus), self.vocabulary(source.tokenizer))
        return self._layer[1]


@dataclass
class _Written:
    """Pages of one layer that have been written."""

    summaries: list[NeuronSummary] = field(default_factory=list)
    bytes: int = 0
    largest_bytes: int = 0

    def write(self, folder: Path, page: NeuronPage) -> None:
        """Write one more."""
        for name, content in page.files.items():
            write_page(folder / name, content)
        self.add(_Written([page.summary], page.size, page.size))

    def add(self, other: "_Written") -> None:
        """Count others that were written elsewhere."""
        self.summaries += other.summaries
        self.bytes += other.bytes
        self.largest_bytes = max(self.largest_bytes, other.largest_bytes)


def render_neuron_pages(site: Path, layer_pages: LayerPages, progress: Progress = no_progress) -> RenderReport:
    """Write the pages of one layer of one checkpoint into `site/<checkpoint key>/<layer>/`, in this process.

    Pages of neurons that are no longer selected are deleted at the end. Progress counts pages.
    """
    neurons, written = layer_pages.neurons, _Written()
    for page in layer_pages.pages(neurons):
        written.write(_folder(site, layer_pages.source), page)
        progress(len(written.summaries), len(neurons))
    return _finish(site, layer_pages, written)


def render_layers(
    site: Path, sources: Sequence[LayerSource], progress: Progress = no_progress, processes: int | None = None
) -> Generator[RenderReport, None, None]:
    """Write the pages of several layers as `render_neuron_pages` does, and yield their reports in order.

    `processes`, of which this is one, are as many as cores if absent; few pages are made in this one alone. Progress counts the
    pages of all layers. InputError if a table lacks something; what was written before is whole pages. Closing the generator
    ends the processes.
    """
    opener, total = Opener(), sum(len(source.neurons) for source in sources)
    processes = available_cores() if processes is None else processes
    if processes > 1 and total >= FEWEST_FOR_PROCESSES:
        yield from _render_in_processes(site, sources, opener, progress, total, processes)
        return
    done = 0
    for source in sources:

        def show(written: int, _: int, before: int = done) -> None:
            progress(before + written, total)

        yield render_neuron_pages(site, opener.layer(source), show)
        done += len(source.neurons)


@dataclass
class _Run:
    """Some pages of a layer, written at once by one process."""

    source: LayerSource
    neurons: Sequence[int]
    written: "Future[_Written]" = field(default_factory=Future)


class _Runs:
    """Runs that processes take, each when it is free: workers of a pool, and this process."""

    def __init__(self, site: Path, runs: Iterable[_Run], pool: ProcessPoolExecutor) -> None:
        self._site, self._pool, self._left, self._lock = site, pool, deque(runs), Lock()

    def take(self) -> _Run | None:
        """The next run that nobody has taken."""
        with self._lock:
            return self._left.popleft() if self._left else None

    def give_to_worker(self) -> None:
        """Let a worker write the next run, and then one after the other."""
        run = self.take()
        if run is None:
            return
        try:
            asked = self._pool.submit(_render_run, self._site, run.source, run.neurons)
        except RuntimeError as error:  # the pool is broken, or shut down
            run.written.set_exception(error)
            return

        def pass_on(finished: "Future[_Written]") -> None:
            if finished.cancelled():
                return
            error = finished.exception()
            if error is None:
                run.written.set_result(finished.result())
                self.give_to_worker()
            else:
                run.written.set_exception(error)

        asked.add_done_callback(pass_on)

    def end(self) -> None:
        """Let nobody take any more."""
        with self._lock:
            self._left.clear()


def _render_in_processes(
    site: Path, sources: Sequence[LayerSource], opener: Opener, progress: Progress, total: int, processes: int
) -> Iterator[RenderReport]:
    # Spawned, because a fork inherits locks of Arrow's and polars' threads, and nobody who holds them.
    pool = ProcessPoolExecutor(processes - 1, multiprocessing.get_context("spawn"), initializer=_start_worker)
    layers = [list(_runs(source)) for source in sources]
    runs, done = _Runs(site, chain.from_iterable(layers), pool), 0
    try:
        # An interrupt is for this process alone, which lets the pages at hand be finished: what it starts inherits the mask.
        with _interrupts_blocked():
            for _ in range(processes - 1):
                runs.give_to_worker()
        for source, of_layer in zip(sources, layers, strict=True):
            written = _Written()
            for run in of_layer:
                while not run.written.done() and (own := runs.take()) is not None:
                    own.written.set_result(_render_run(site, own.source, own.neurons, opener))
                written.add(run.written.result())
                progress(done + len(written.summaries), total)
            done += len(written.summaries)
            of_layer.clear()
            yield _finish(site, opener.layer(source), written)
    except BrokenProcessPool as error:
        raise InputError("A process that renders pages ended early, perhaps for lack of memory; build again.") from error
    finally:
        runs.end()
        # Waits for the pages at hand, so that none is half-written.
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _runs(source: LayerSource) -> Iterator[_Run]:
    """The neurons of a layer that get pages, by the row group of the examples that they lie in."""
    metadata = pq.read_metadata(require_file(source.examples))
    ends = list(accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)))
    for _, neurons in groupby(source.neurons, key=lambda neuron: bisect_right(ends, neuron)):
        yield _Run(source, list(neurons))


_opener = Opener()
"""What this process has open, where it is a worker."""


def _start_worker() -> None:
    # The other cores have workers of their own.
    pa.set_cpu_count(1)
    end_with_parent()


def _render_run(site: Path, source: LayerSource, neurons: Sequence[int], opener: Opener = _opener) -> _Written:
    """Write the pages of some neurons of a layer: a worker's task."""
    layer_pages, written = opener.layer(source), _Written()
    for page in layer_pages.pages(neurons):
        written.write(_folder(site, source), page)
    return written


def _folder(site: Path, source: LayerSource) -> Path:
    return site / pages_folder(source.checkpoint_key, source.layer)


def _finish(site: Path, layer_pages: LayerPages, written: _Written) -> RenderReport:
    """Write the layer's own page, delete pages of other neurons, and report."""
    source, neurons = layer_pages.source, layer_pages.neurons
    folder = _folder(site, source)
    if neurons:
        written.bytes += write_page(folder / INDEX, layer_pages.index(written.summaries))
    _remove_other_pages(folder, set(neurons))
    samples = dict.fromkeys(neurons[at] for at in (0, len(neurons) // 2, -1)) if neurons else ()
    shown = tuple(page_file(source.checkpoint_key, source.layer, neuron) for neuron in samples)
    return RenderReport(len(written.summaries), written.bytes, written.largest_bytes, shown)


def _remove_other_pages(folder: Path, neurons: Collection[int]) -> None:
    """Delete the files of all neurons but `neurons`, and the layer's own page where there is none."""
    if folder.is_dir():
        for entry in os.scandir(folder):
            name, _, kind = entry.name.partition(".")
            if kind in ("html", "js") and name.isdigit() and int(name) not in neurons:
                os.unlink(entry.path)
        if not neurons:
            (folder / INDEX).unlink(missing_ok=True)
