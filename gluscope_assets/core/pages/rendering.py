"""Rendering: the pages of layers written into a site, by as many processes as there are cores.

Pages of one layer are made by `layer_pages`; which files a site has is decided by `site_map`, and what stands around the
neuron pages by `core.site.site`. The bytes do not depend on the number of processes.
"""

import multiprocessing
import os
import signal
from bisect import bisect_right
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gluscope_assets.core.corpus.decoder import TokenDecoder
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import require_file, row_groups
from gluscope_assets.core.pages.layer_pages import LayerPages
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


Written = list[tuple[NeuronSummary, int]]
"""Of neurons whose pages have been written, what the page of the layer shows, and the bytes of the neuron's files."""


def layer_opener() -> Callable[[LayerSource], LayerPages]:
    """Opens layers one after the other. What was opened last stays open; layers share what they show of texts and tokens."""
    texts = lru_cache(1)(lambda path: ShownTexts(TokenizedCorpus.open(path)))
    vocabulary = lru_cache(1)(lambda folder: Vocabulary(TokenDecoder.from_folder(folder)))
    return lru_cache(1)(lambda source: LayerPages(source, texts(source.corpus), vocabulary(source.tokenizer)))


def render_neuron_pages(site: Path, layer_pages: LayerPages) -> RenderReport:
    """Write the pages of one layer of one checkpoint into `site/<checkpoint key>/<layer>/`, in this process.

    Pages of neurons that are no longer selected are deleted at the end.
    """
    return _finish(site, layer_pages, _write(site, layer_pages, layer_pages.neurons))


def render_layers(
    site: Path, sources: Sequence[LayerSource], progress: Progress = no_progress, processes: int | None = None
) -> Generator[RenderReport, None, None]:
    """Write the pages of several layers as `render_neuron_pages` does, and yield their reports in order.

    `processes`, of which this is one, are as many as cores if absent; few pages are made in this one alone. Progress counts the
    pages of all layers. InputError if a table lacks something; what was written before is whole pages. Closing the generator
    ends the processes.
    """
    opened, total, done = layer_opener(), sum(len(source.neurons) for source in sources), 0
    workers = (available_cores() if processes is None else processes) - 1 if total >= FEWEST_FOR_PROCESSES else 0
    layers = [[(source, neurons) for neurons in _stored_together(source)] for source in sources]
    with closing(_write_runs(site, list(chain.from_iterable(layers)), opened, workers)) as of_runs:
        for source, runs in zip(sources, layers, strict=True):
            written: Written = []
            for of_run in islice(of_runs, len(runs)):
                written += of_run
                progress(done + len(written), total)
            done += len(written)
            yield _finish(site, opened(source), written)


def _write_runs(
    site: Path, runs: Sequence[tuple[LayerSource, list[int]]], opened: Callable[[LayerSource], LayerPages], workers: int
) -> Generator[Written, None, None]:
    """Write the pages of runs of neurons, and yield what was written of each, in order.

    Workers take one run after the other; this process withdraws those that no worker has begun, and writes them itself.
    """
    if not workers:
        yield from (_write(site, opened(source), neurons) for source, neurons in runs)
        return
    # Spawned, because a fork inherits locks of Arrow's and polars' threads, and nobody who holds them.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        # An interrupt is for this process alone, which lets the pages at hand be finished: what it starts inherits the mask.
        with _interrupts_blocked():
            asked = {number: pool.submit(_write_in_worker, site, *run) for number, run in enumerate(runs)}
        own: dict[int, Written] = {}
        withdrawn = (at for at in range(len(runs)) if at in asked and asked[at].cancel())
        for number in range(len(runs)):
            while not asked[number].done() and (at := next(withdrawn, None)) is not None:
                source, neurons = runs[at]
                own[at] = _write(site, opened(source), neurons)
            # Forgotten, because a study may have a million neurons.
            future = asked.pop(number)
            yield own.pop(number) if number in own else future.result()
    except BrokenProcessPool as error:
        raise InputError("A process that renders pages ended early, perhaps for lack of memory; build again.") from error
    finally:
        # Waits for the pages at hand, so that none is half-written.
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stored_together(source: LayerSource) -> Iterator[list[int]]:
    """The neurons of a layer that get pages, by the row group of the examples that they lie in."""
    ends = [end for _, end in row_groups(pq.read_metadata(require_file(source.examples)))]
    for _, neurons in groupby(source.neurons, key=lambda neuron: bisect_right(ends, neuron)):
        yield list(neurons)


def _start_worker() -> None:
    # The other cores have workers of their own.
    pa.set_cpu_count(1)
    end_with_parent()


_opened = layer_opener()
"""What this process has open, where it is a worker."""


def _write_in_worker(site: Path, source: LayerSource, neurons: Sequence[int]) -> Written:
    return _write(site, _opened(source), neurons)


def _write(site: Path, layer_pages: LayerPages, neurons: Iterable[int]) -> Written:
    """Write the pages of some neurons of a layer."""
    folder = _folder(site, layer_pages.source)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        (page.summary, sum(write_page(folder / name, content) for name, content in page.files.items()))
        for page in layer_pages.pages(neurons)
    ]


def _folder(site: Path, source: LayerSource) -> Path:
    return site / pages_folder(source.checkpoint_key, source.layer)


def _finish(site: Path, layer_pages: LayerPages, written: Written) -> RenderReport:
    """Write the layer's own page, delete pages of other neurons, and report."""
    source, neurons, sizes = layer_pages.source, layer_pages.neurons, [size for _, size in written]
    folder = _folder(site, source)
    of_layer = write_page(folder / INDEX, layer_pages.index(summary for summary, _ in written)) if neurons else 0
    _remove_other_pages(folder, set(neurons))
    samples = dict.fromkeys(neurons[at] for at in (0, len(neurons) // 2, -1)) if neurons else ()
    shown = tuple(page_file(source.checkpoint_key, source.layer, neuron) for neuron in samples)
    return RenderReport(len(written), sum(sizes) + of_layer, max(sizes, default=0), shown)


def _remove_other_pages(folder: Path, neurons: Collection[int]) -> None:
    """Delete the files of all neurons but `neurons`, and the layer's own page where there is none."""
    if folder.is_dir():
        for entry in os.scandir(folder):
            name, _, kind = entry.name.partition(".")
            if kind in ("html", "js") and name.isdigit() and int(name) not in neurons:
                os.unlink(entry.path)
        if not neurons:
            (folder / INDEX).unlink(missing_ok=True)
