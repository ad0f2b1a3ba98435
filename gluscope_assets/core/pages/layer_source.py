"""What the pages of one layer of one checkpoint are made from, by the paths of files: another process can open it.

The study says where these lie (`gluscope_assets.study.sources`); reading them belongs to `layer_pages`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gluscope_assets.core.pages.site_map import SiteMap
from gluscope_assets.core.paths import LayerTables


@dataclass(frozen=True)
class LayerSource(LayerTables):
    """A layer's tables, and what its pages show beside them."""

    site_map: SiteMap
    corpus: Path
    """The file of the tokenized corpus that the tables were made from."""
    tokenizer: Path
    """A folder with tokenizer.json."""
    count_special_tokens: bool = False
    """Whether statistics and lists count special tokens."""

    @property
    def neurons(self) -> Sequence[int]:
        """The neurons that get a page when the site is built, ascending. InputError if the checkpoint is unknown."""
        return self.site_map.neurons(self.checkpoint_key, self.layer)
