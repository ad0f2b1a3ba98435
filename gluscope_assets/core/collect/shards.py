"""Activation shards on disk: the manifest that says one is finished, and who may write one.

Where they lie is said by `paths.LayerShards`. A shard's folder holds the four tables of one layer over one run of packs, and
their manifest; beside the shards of a layer lies the record of the collection that they make up. A shard follows from its own
texts alone, so texts that are appended to a corpus leave the shards before them as they are. What is in the tables belongs to
`tables.aggregate`, how it comes about to `job`.

Who may write a shard is settled by `flock`, called by hand: the operating system gives a claim back when its holder ends,
however that ends, where a lock file or a lease would outlive a killed process and have to be judged by its age. Libraries such
as filelock wrap the same call, to wait for a lock; a collection goes on with another shard.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import hash_files, read_provenance, replacing, replacing_folder, require_file
from gluscope_assets.core.paths import AGGREGATE_FILES, SHARD_MANIFEST, LayerShards, claim_file
from gluscope_assets.core.progress import Progress, no_progress
from gluscope_assets.core.quadrants import QUADRANTS
from gluscope_assets.core.tables.aggregate import Aggregate, merge, read_aggregate, write_aggregate, write_tables


@dataclass(frozen=True)
class Manifest:
    """What a finished shard is, beside its tables: enough to go on after a crash and to report. It names no time."""

    fingerprint: str
    """What model, texts and options it was made from."""
    computed_on: str
    """The software and hardware whose rounding its numbers have."""
    layer: int
    shard: int
    neurons: int
    tokens: int
    positions: int
    """Counted tokens."""
    routed: int
    """Counted tokens that each neuron saw, summed over neurons."""
    count: list[int]
    """Counted tokens in each quadrant, summed over neurons."""
    sizes: dict[str, int]
    """Bytes of each table."""
    sha256: str
    """Over the tables, in hex."""

    @property
    def bytes(self) -> int:
        """Bytes of all tables."""
        return sum(self.sizes.values())


@dataclass(frozen=True)
class Record:
    """Which shards of a layer make up a collection that is complete."""

    fingerprint: str
    """What model, corpus and options the collection was made from."""
    content_hash: str
    """Of the tokenized corpus."""
    shards: list[str]
    """The fingerprint of each shard."""


def write_record(shards: LayerShards, record: Record) -> None:
    """Say that all shards of a layer are finished."""
    with replacing(shards.record) as temporary:
        temporary.write_text(json.dumps(asdict(record), indent=1) + "\n")


def read_record(shards: LayerShards) -> Record:
    """The record of a layer's shards. InputError if the collection is not complete."""
    try:
        return Record(**json.loads(shards.record.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{shards.record} is missing or damaged; delete it if it is there, and run gluscope build.") from error


def write_shard(aggregate: Aggregate, root: Path, shard: int, tokens: int, footer: Mapping[str, object]) -> None:
    """Write one layer's shard with its manifest, all or nothing. `footer` has `fingerprint` and `computed_on`."""
    with replacing_folder(LayerShards(root, aggregate.layer).shard(shard)) as folder:
        write_tables(aggregate, folder, {**footer, "shard": shard})
        paths = [folder / name for name in AGGREGATE_FILES]
        manifest = Manifest(
            fingerprint=str(footer["fingerprint"]),
            computed_on=str(footer["computed_on"]),
            layer=aggregate.layer,
            shard=shard,
            neurons=aggregate.neurons,
            tokens=tokens,
            positions=aggregate.positions,
            routed=int(aggregate.routed.sum()),
            count=[int(count) for count in aggregate.count.sum(axis=1)],
            sizes={path.name: path.stat().st_size for path in paths},
            sha256=hash_files(*paths),
        )
        (folder / SHARD_MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n")


def read_shard_manifest(folder: Path) -> Manifest:
    """The manifest of the finished shard in `folder`. InputError if it is missing or damaged."""
    path = require_file(folder / SHARD_MANIFEST)
    try:
        return Manifest(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not a shard's manifest; delete {folder.parent} and run gluscope build.") from error


def is_finished(folder: Path, fingerprint: str, computed_on: str) -> bool:
    """Whether the shard in `folder` is whole and made from the same things on the same software and hardware."""
    try:
        manifest = read_shard_manifest(folder)
    except InputError:
        return False
    if (manifest.fingerprint, manifest.computed_on) != (fingerprint, computed_on):
        return False
    sizes = {name: path.stat().st_size for name in manifest.sizes if (path := folder / name).is_file()}
    return sizes == manifest.sizes


@contextmanager
def claimed(root: Path, shard: int) -> Iterator[bool]:
    """Whether this caller may write a shard until it leaves: no other process or thread may meanwhile.

    The claim is a lock of the operating system. It expires with the process that holds it, however that ends.
    """
    path = claim_file(root, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def sweep(root: Path, layers: Sequence[int], shards: int) -> None:
    """Remove what is no shard of these layers: shards of an earlier cut, and what a killed process left half-written."""
    for layer in layers:
        of_layer = LayerShards(root, layer)
        current = {of_layer.shard(shard) for shard in range(shards)} | {of_layer.record}
        for other in set(of_layer.folder.iterdir()) - current:
            shutil.rmtree(other, ignore_errors=True)


OF_ONE_SHARD = ("shard", "positions", "fingerprint", "inputs")
"""What a shard's footer says that does not hold for all."""


def merge_shards(root: Path, layer: int, destination: Path, provenance: Mapping[str, object]) -> Aggregate:
    """Merge the shards of a layer in canonical order into `destination`.

    InputError if a shard is missing or was dropped, or the shards are not of one collection.
    """
    shards = LayerShards(root, layer)
    record = read_record(shards)
    folders = [shards.shard(shard) for shard in range(len(record.shards))]
    computed_on = read_shard_manifest(folders[0]).computed_on
    for shard, fingerprint in zip(folders, record.shards, strict=True):
        manifest = read_shard_manifest(shard)
        if (manifest.fingerprint, manifest.computed_on) != (fingerprint, computed_on):
            raise InputError(f"{shard} is of another collection than {shards.record}; delete that and run gluscope build.")
        if not is_finished(shard, fingerprint, computed_on):
            raise InputError(f"The tables of {shard} are gone or damaged; delete {shards.record} and run gluscope build.")
    footer = read_provenance(shards.first_statistics)
    common = {name: value for name, value in footer.items() if name not in OF_ONE_SHARD}
    merged = reduce(merge, map(read_aggregate, folders))
    whole = {"content_hash": record.content_hash, "shards": len(folders)}
    write_aggregate(merged, destination, {**common, **whole, **provenance})
    return merged


LAYERS_AT_ONCE = 2
"""Layers merged beside each other: reading and writing Parquet and ranking leave Python to other threads."""


@dataclass(frozen=True)
class MergeReport:
    """What one layer's merge gave."""

    neurons: int
    positions: int
    """Counted positions."""
    frequency: list[float]
    """Share of counted positions in each quadrant, over the layer's neurons."""
    shards: int
    shard_bytes: int
    """Bytes of the shards' tables before the merge."""

    def metadata(self) -> dict[str, str | int | float | Path]:
        """What is said of it."""
        return {
            "neurons": self.neurons,
            "counted tokens": self.positions,
            "shards merged": self.shards,
            "bytes of the shards": self.shard_bytes,
            **{f"share of {quadrant}": share for quadrant, share in zip(QUADRANTS, self.frequency, strict=True)},
        }


def merge_layers(
    root: Path,
    layers: Sequence[int],
    destination: Callable[[int], Path],
    provenance: Callable[[int], Mapping[str, object]],
    drop: bool = False,
    progress: Progress = no_progress,
) -> dict[int, MergeReport]:
    """Merge the shards of each layer below `root` into `destination(layer)`. Progress counts layers.

    With `drop` the tables of merged shards are removed; their manifests stay.
    """

    def merge_layer(layer: int) -> MergeReport:
        merged = merge_shards(root, layer, destination(layer), provenance(layer))
        shards = [read_shard_manifest(path.parent) for path in LayerShards(root, layer).manifests()]
        if drop:
            for table in LayerShards(root, layer).tables():
                table.unlink(missing_ok=True)
        share = merged.count.sum(axis=1) / (merged.positions * merged.neurons or 1)
        size = sum(manifest.bytes for manifest in shards)
        return MergeReport(merged.neurons, merged.positions, share.tolist(), len(shards), size)

    reports = {}
    with ThreadPoolExecutor(LAYERS_AT_ONCE) as pool:
        for layer, report in zip(layers, pool.map(merge_layer, layers), strict=True):
            reports[layer] = report
            progress(len(reports), len(layers))
    return reports


def adopt(source: Path, root: Path, layers: Sequence[int]) -> None:
    """Give `root` the shards of `source` that it lacks, as links to the same files; both checkpoints have the same weights.

    Whether they belong to the wanted collection is then judged as for any shard.
    """
    for layer in layers:
        for shard in LayerShards(source, layer).manifests():
            target = LayerShards(root, layer).folder / shard.parent.name
            if not target.exists():
                with replacing_folder(target) as folder:
                    shutil.copytree(shard.parent, folder, copy_function=os.link, dirs_exist_ok=True)
