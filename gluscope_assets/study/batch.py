"""The unit of work of a stage that has layers: some layers of one checkpoint, which are made in one go."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gluscope_assets.core.paths import StudyFolder

if TYPE_CHECKING:
    from gluscope_assets.core.model.checkpoint import Checkpoint
    from gluscope_assets.study.study import Study


@dataclass(frozen=True)
class LayerBatch:
    """Some layers of one checkpoint of a study, and what the footers of each layer's files begin with."""

    study: "Study"
    folder: StudyFolder
    checkpoint: "Checkpoint"
    provenance: Mapping[int, Mapping[str, object]]
    """By layer, ascending."""
    origin: str
    """What the numbers of a text follow from beside its tokens: a fingerprint without the corpus."""

    @property
    def key(self) -> str:
        """The checkpoint's."""
        return self.checkpoint.key

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self.provenance)

    @property
    def shared_provenance(self) -> dict[str, object]:
        """That of every layer, where all layers are made from the same."""
        return dict(self.provenance[self.layers[0]])

    def weights(self, layer: int) -> Path:
        """The file of weights of a layer."""
        return self.folder.weights(self.key, layer)

    def aggregate(self, layer: int) -> Path:
        """The folder of a layer's aggregate."""
        return self.folder.aggregate(self.key, layer)
