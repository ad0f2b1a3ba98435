"""Where everything lies: the home folder and the files of a study in it.

Paths are made here and nowhere else. Nothing is computed or read here.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from gluscope_assets.core.collect.shards import layer_folder, shard_folder
from gluscope_assets.core.model.checkpoint import HASH_DIGITS

HOME_VARIABLE = "GLUSCOPE_HOME"
"""The environment variable that says where everything is stored."""


def default_home() -> Path:
    """$GLUSCOPE_HOME, or `.gluscope` in the working folder."""
    return Path(os.environ.get(HOME_VARIABLE) or ".gluscope").resolve()


@dataclass(frozen=True)
class StudyFolder:
    """The files of one study."""

    root: Path

    @property
    def corpus(self) -> Path:
        return self.root / "corpus" / "texts.parquet"

    @property
    def registry(self) -> Path:
        """A file that names the checkpoints found so far (`registry.py`)."""
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
        return self.root / "weights" / checkpoint_key / f"layer-{layer:02d}.parquet"

    def shards(self, checkpoint_key: str) -> Path:
        """A folder with one folder a layer, in it one a corpus shard (`core/shards.py`)."""
        return self.root / "shards" / checkpoint_key

    def twins(self, stage: str, checkpoint_key: str) -> list[Path]:
        """Folders of `weights` or `shards` whose checkpoints' keys end as this one's does: their weights may be the same."""
        found = (self.root / stage).glob(f"*{checkpoint_key[-1 - HASH_DIGITS :]}")
        return sorted(folder for folder in found if folder.name != checkpoint_key)

    def first_shard(self, checkpoint_key: str, layer: int) -> Path:
        """A folder that stands for all shards of a layer: they are of one collection."""
        return shard_folder(layer_folder(self.shards(checkpoint_key), layer), 0)

    def aggregate(self, checkpoint_key: str, layer: int) -> Path:
        """A folder with statistics, examples, sample and positions."""
        return self.root / "aggregates" / checkpoint_key / f"layer-{layer:02d}"

    def page_report(self, checkpoint_key: str, layer: int) -> Path:
        """A file that says what the pages of a layer were made from; the pages themselves lie in the site."""
        return self.root / "pages" / checkpoint_key / f"layer-{layer:02d}.json"
