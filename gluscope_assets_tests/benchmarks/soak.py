"""Kill a collection at random moments until it is done, and compare its files with those of an undisturbed one.

Run by `make soak`, with 20 kills; a test does it with 5.
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from gluscope_assets.core.collect.job import Collection, collect
from gluscope_assets.core.corpus.tokenize import tokenize_corpus
from gluscope_assets.core.model.checkpoint import resolve_checkpoint
from gluscope_assets.core.options import CheckpointOptions, CollectionOptions, CorpusOptions
from gluscope_assets_tests.support.tiny import LAYERS, write_checkpoint, write_corpus

CONTEXT = multiprocessing.get_context("forkserver")
"""Processes that begin with everything imported, which takes longer than the collection."""
CONTEXT.set_forkserver_preload(["gluscope_assets.core.collect.job"])


def small_collection(folder: Path, root: str, shards: int = 12) -> Collection:
    """A collection of a random model in about so many shards, whose files go below `folder / root`."""
    if not (folder / "checkpoint").exists():
        write_checkpoint(folder / "checkpoint", seed=0)
        texts = {
            f"{number}.txt": f"Text number {number} says: {'and so on ' * (number % 7 + 1)}." for number in range(shards * 8)
        }
        write_corpus(folder / "corpus", texts)
    checkpoint = resolve_checkpoint(CheckpointOptions(name="soak", path=folder / "checkpoint"))
    corpus = CorpusOptions(source="folder", path=folder / "corpus", text_tokens=32, pack_tokens=64, shard_packs=3)
    if not (folder / "texts.parquet").exists():
        tokenize_corpus(corpus, checkpoint, folder / "texts.parquet", {})
    return Collection(
        checkpoint=checkpoint,
        dtype="float32",
        corpus=folder / "texts.parquet",
        layers=tuple(range(LAYERS)),
        model_layers=tuple(range(LAYERS)),
        options=CollectionOptions(examples=4, sample_positions=100),
        root=folder / root,
        provenance={"fingerprint": "soak"},
    )


def files_of(root: Path) -> dict[str, bytes]:
    """The content of every file of a collection; the claims are empty and stay."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file() and path.stat().st_size
    }


def _collect(collection: Collection, processes: int, started: Connection) -> None:
    """The process under test: it says when it has forwarded its first pack."""

    def tell(done: int, total: int) -> None:
        if not started.closed:
            started.close()

    collect(collection, ["cpu"], tell, processes)


@contextmanager
def running(collection: Collection, processes: int) -> Iterator[BaseProcess]:
    """The collection in a process of its own, which has begun to forward."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_collect, args=(collection, processes, sender))
    process.start()
    sender.close()
    with receiver, suppress(EOFError):
        receiver.recv()
    yield process
    process.join()


def kill_until_done(collection: Collection, kills: int, seed: int, processes: int = 1) -> int:
    """Kill the collection so often, each time at a random moment, then let it finish; how often it was alive when killed."""
    generator, landed = random.Random(seed), 0
    for _ in range(kills):
        with running(collection, processes) as process:
            time.sleep(generator.uniform(0, 0.15))
            landed += process.is_alive()
            process.kill()
    with running(collection, processes) as process:
        pass
    if process.exitcode:
        raise RuntimeError("the last collection failed")
    return landed


def main() -> None:
    """Soak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--shards", type=int, default=60)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        undisturbed = small_collection(folder, "undisturbed", options.shards)
        report = collect(undisturbed, ["cpu"])
        disturbed = small_collection(folder, "disturbed", options.shards)
        landed = kill_until_done(disturbed, options.kills, seed=0, processes=options.processes)
        same = files_of(disturbed.root) == files_of(undisturbed.root)
        print(f"{report.shards} shards; killed {options.kills} times, {landed} times at work; the same files: {same}")
        sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
