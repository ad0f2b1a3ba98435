"""Every path of the project: what lies where in the home folder, in a study's folder, among shards, and in a site.

Layers and shards are named here and nowhere else, so that one with three digits lies where all who look expect it. Nothing is
read, written or computed here.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "GLUSCOPE_HOME"
"""The environment variable that says where everything is stored."""


def default_home() -> Path:
    """$GLUSCOPE_HOME, or `.gluscope` in the working folder."""
    return Path(os.environ.get(HOME_VARIABLE) or ".gluscope").resolve()


# Names

HASH_DIGITS = 7
"""Digits of the weights' hash in a checkpoint's key."""

LAYER_DIGITS = r"(?:\d\d|[1-9]\d{2,3})"
"""The names that `layer_name` gives, as a pattern."""


def checkpoint_key(name: str, weights_hash: str) -> str:
    """A checkpoint's partition key and folder: its name and digits of its weights' hash, such as `step1000-ab12cd3`."""
    return f"{name}-{weights_hash[:HASH_DIGITS]}"


def layer_name(layer: int) -> str:
    """`03`: padded, so that the names of up to a hundred layers sort as their numbers do."""
    return f"{layer:02d}"


def layer_folder_name(layer: int) -> str:
    """`layer-03`: what a layer's folder or file is called outside the site."""
    return f"layer-{layer_name(layer)}"


def shard_folder_name(shard: int) -> str:
    """`shard-0003`: what a shard's folder is called."""
    return f"shard-{shard:04d}"


# Tables

STATISTICS_FILE = "statistics.parquet"
EXAMPLES_FILE = "examples.parquet"
SAMPLE_FILE = "sample.parquet"
POSITIONS_FILE = "positions.parquet"
AGGREGATE_FILES = (STATISTICS_FILE, EXAMPLES_FILE, SAMPLE_FILE, POSITIONS_FILE)
"""The files of an aggregate's folder, and of an activation shard's."""


@dataclass(frozen=True)
class LayerTables:
    """Where the tables of one layer of one checkpoint lie."""

    checkpoint_key: str
    layer: int
    aggregate: Path
    """The folder with `AGGREGATE_FILES`."""
    weights: Path
    """A file."""

    @property
    def statistics(self) -> Path:
        return self.aggregate / STATISTICS_FILE

    @property
    def examples(self) -> Path:
        return self.aggregate / EXAMPLES_FILE

    @property
    def sample(self) -> Path:
        """Gate and in at the sampled positions."""
        return self.aggregate / SAMPLE_FILE

    @property
    def positions(self) -> Path:
        """Where the sampled positions lie."""
        return self.aggregate / POSITIONS_FILE

    @property
    def are_there(self) -> bool:
        """Whether the layer has been built."""
        return self.statistics.is_file() and self.weights.is_file()


# A study's folder


@dataclass(frozen=True)
class StudyFolder:
    """The files of one study."""

    root: Path

    @property
    def corpus(self) -> Path:
        return self.root / "corpus" / "texts.parquet"

    @property
    def registry(self) -> Path:
        """A file that names the checkpoints that have appeared so far (`study/registry.py`)."""
        return self.root / "checkpoints.json"

    @property
    def publishing(self) -> Path:
        """A folder for what publishing keeps here, such as a copy of a branch's objects."""
        return self.root / "publishing"

    @property
    def site(self) -> Path:
        return self.root / "site"

    def weights(self, checkpoint_key: str, layer: int) -> Path:
        """A file."""
        return self.root / "weights" / checkpoint_key / f"{layer_folder_name(layer)}.parquet"

    def shards(self, checkpoint_key: str) -> Path:
        """A folder with one folder a layer, in it one a corpus shard."""
        return self.root / "shards" / checkpoint_key

    def layer_shards(self, checkpoint_key: str, layer: int) -> "LayerShards":
        """The shards of one layer."""
        return LayerShards(self.shards(checkpoint_key), layer)

    def twins(self, stage: str, checkpoint_key: str) -> list[Path]:
        """Folders of `weights` or `shards` whose checkpoints' keys end as this one's does: their weights may be the same."""
        same_hash = (self.root / stage).glob(f"*{checkpoint_key[-1 - HASH_DIGITS :]}")
        return sorted(folder for folder in same_hash if folder.name != checkpoint_key)

    def aggregate(self, checkpoint_key: str, layer: int) -> Path:
        """A folder with statistics, examples, sample and positions."""
        return self.root / "aggregates" / checkpoint_key / layer_folder_name(layer)

    def tables(self, checkpoint_key: str, layer: int) -> LayerTables:
        """Aggregate and weights of a layer, whether or not they are there."""
        return LayerTables(checkpoint_key, layer, self.aggregate(checkpoint_key, layer), self.weights(checkpoint_key, layer))

    def stored_aggregates(self) -> list[tuple[str, int]]:
        """The (checkpoint key, layer) of all aggregates that are there, in the order of keys and layers."""
        entry = re.compile(rf"layer-({LAYER_DIGITS})")
        stored = (self.root / "aggregates").glob(f"*/layer-*/{STATISTICS_FILE}")
        matches = ((path.parents[1].name, entry.fullmatch(path.parent.name)) for path in stored)
        return sorted((key, int(match[1])) for key, match in matches if match)

    def statistics_of(self, checkpoint_name: str) -> list[Path]:
        """The statistics files of all checkpoints of one name, whatever their weights are."""
        return sorted(
            (self.root / "aggregates").glob(f"{checkpoint_name}-{'[0-9a-f]' * HASH_DIGITS}/layer-*/{STATISTICS_FILE}")
        )

    def page_report(self, checkpoint_key: str, layer: int) -> Path:
        """A file that says what the pages of a layer were made from; the pages themselves lie in the site."""
        return self.root / "pages" / checkpoint_key / f"{layer_folder_name(layer)}.json"


@dataclass(frozen=True)
class LayerShards:
    """The activation shards of one layer, in the folder `root` that all layers of the checkpoint share."""

    root: Path
    layer: int

    @property
    def folder(self) -> Path:
        return self.root / layer_folder_name(self.layer)

    @property
    def record(self) -> Path:
        """A file that says which shards make up a collection that is complete."""
        return self.folder / "collection.json"

    def shard(self, shard: int) -> Path:
        """The folder of one shard."""
        return self.folder / shard_folder_name(shard)

    @property
    def first_statistics(self) -> Path:
        """A table that stands for those of all shards: they are of one collection."""
        return self.shard(0) / STATISTICS_FILE

    def manifests(self) -> list[Path]:
        """The manifests of all shards that are there, in order."""
        return sorted(self.folder.glob(f"shard-*/{SHARD_MANIFEST}"))

    def tables(self) -> list[Path]:
        """The tables of all shards that are there."""
        return sorted(self.folder.glob("shard-*/*.parquet"))


SHARD_MANIFEST = "manifest.json"
"""The file of a shard's folder that says that it is finished."""


def claim_file(root: Path, shard: int) -> Path:
    """An empty file in the folder of a checkpoint's shards; who locks it may write the shard."""
    return root / ".claims" / shard_folder_name(shard)


# A site: names have `/` between folders, as in addresses

INDEX = "index.html"
MANIFEST = "neurons.js"
"""The script at the site's root that tells every page which pages there are."""
STATIC = "static"
DATASET = "dataset"
"""The folder that holds all tables as a dataset, beside the pages."""
STRIPS = "training"
"""The folder of the scripts with the strips along training."""
VOCABULARY = "vocabulary"
"""The script with the text of each token, without `.js`; it is provided under this name."""

NEURON_DIGITS = r"(?:0|[1-9]\d{0,8})"
"""A neuron's number in the name of a file, as a pattern."""


def pages_folder(checkpoint_key: str, layer: int) -> str:
    """The folder with the pages of a layer."""
    return f"{checkpoint_key}/{layer_name(layer)}"


def page_file(checkpoint_key: str, layer: int, neuron: int) -> str:
    """A neuron's page."""
    return f"{pages_folder(checkpoint_key, layer)}/{neuron}.html"


def columns_folder(checkpoint_key: str, layer: int) -> str:
    """The folder with a layer's columns for the explorer."""
    return f"{pages_folder(checkpoint_key, layer)}/columns"


def columns_script(checkpoint_key: str, layer: int, group: str) -> str:
    """The name under which a group of a layer's columns is provided."""
    return f"{pages_folder(checkpoint_key, layer)}/{group}"


def strips_script(layer: int, first: int) -> str:
    """The name under which the strips of a run of neurons are provided."""
    return f"{STRIPS}/{layer_name(layer)}/{first}"


def strips_file(layer: int, first: int) -> str:
    """The script with these strips, in the folder `STRIPS`."""
    return f"{layer_name(layer)}/{first}.js"


def is_neuron_page(path: Path) -> bool:
    """Whether the name of a file is that of a neuron's page."""
    return path.suffix == ".html" and path.stem.isdigit()


def neuron_pages(site: Path) -> list[Path]:
    """All neurons' pages that lie in a site, in order of path."""
    return sorted(path for path in site.glob("*/*/*.html") if is_neuron_page(path) and path.parent.name.isdigit())


def layer_neuron_pages(site: Path, checkpoint_key: str, layer: int) -> list[Path]:
    """The neurons' pages of a layer that lie in a site, in the order of neurons."""
    pages = (site / pages_folder(checkpoint_key, layer)).glob("*.html")
    return sorted((path for path in pages if is_neuron_page(path)), key=lambda path: int(path.stem))


def site_files(site: Path) -> Iterator[Path]:
    """Every file of a site that is meant to be read: none that is hidden, as half-written ones are."""
    return (path for path in site.rglob("*") if path.is_file() and not path.name.startswith("."))
