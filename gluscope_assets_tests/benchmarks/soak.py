"""Kill a collection at random moments until it is done, and compare its files with those of an undisturbed one.

Run by `make soak`, with 20 kills; a test does it with 3.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gluscope_assets.core.checkpoint import resolve_checkpoint
from gluscope_assets.core.collect import Collection, collect
from gluscope_assets.core.corpus import tokenize_corpus
from gluscope_assets.core.options import CheckpointOptions, CollectionOptions, CorpusOptions
from gluscope_assets_tests.tiny import LAYERS, write_checkpoint, write_corpus

STARTED = "started"
"""What the process under test prints when it has forwarded its first pack."""


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


@contextmanager
def running(collection: Collection, processes: int) -> Iterator[subprocess.Popen[str]]:
    """The collection in a process of its own, which has begun to forward."""
    command = [
        sys.executable,
        "-m",
        "gluscope_assets_tests.benchmarks.soak",
        "--collect",
        collection.model_dump_json(),
        "--processes",
        str(processes),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == STARTED:
                break
        yield process


def kill_until_done(collection: Collection, kills: int, seed: int, processes: int = 1) -> int:
    """Kill the collection so often, each time at a random moment, then let it finish; how often it was alive when killed."""
    generator, landed = random.Random(seed), 0
    for _ in range(kills):
        with running(collection, processes) as process:
            time.sleep(generator.uniform(0, 0.15))
            landed += process.poll() is None
            process.send_signal(signal.SIGKILL)
    with running(collection, processes) as process:
        if process.wait():
            raise RuntimeError("the last collection failed")
    return landed


def main() -> None:
    """Soak, or be the process under test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--collect", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.collect:
        told = False

        def tell(done: int, total: int) -> None:
            nonlocal told
            if not told:
                print(STARTED, flush=True)
            told = True

        collect(Collection.model_validate(json.loads(options.collect)), ["cpu"], tell, options.processes)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        undisturbed = small_collection(folder, "undisturbed", shards=60)
        report = collect(undisturbed, ["cpu"])
        disturbed = small_collection(folder, "disturbed", shards=60)
        landed = kill_until_done(disturbed, options.kills, seed=0, processes=options.processes)
        same = files_of(disturbed.root) == files_of(undisturbed.root)
        print(f"{report.shards} shards; killed {options.kills} times, {landed} times at work; the same files: {same}")
        sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
