"""Options of each stage, validated. A study is made of these; no file is read here and nothing is computed.

A field that changes a stage's result is in that stage's options, so that its hash decides what reruns.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo, model_validator

Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]


def _from_study_file(path: Path, info: ValidationInfo) -> Path:
    return (info.context["folder"] / path.expanduser()).resolve() if info.context else path


StudyPath = Annotated[Path, AfterValidator(_from_study_file)]
"""Made absolute as a study file is read: relative ones start at the `folder` of the validation's context."""


class Options(BaseModel):
    """Immutable, and closed: an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusOptions(Options):
    """Where texts come from, and how they are cut."""

    source: Literal["standard_library", "folder", "jsonl", "tokens"]
    """The running Python's standard library; a folder of text files; JSON lines; or Parquet with `input_ids`."""
    path: StudyPath | None = None
    """The folder or file, for every source but `standard_library`. Relative paths start at the study file."""
    text_field: str = "text"
    """The field of a JSON line that holds the text."""
    text_tokens: int = Field(default=256, ge=1)
    """Longest text in tokens, its beginning-of-sequence token included. Longer documents give several texts."""
    max_texts: int | None = Field(default=None, ge=1)
    """Keep so many texts, those with the smallest hash of (document, start in it); all of them if absent."""
    pack_tokens: int = Field(default=4096, ge=1)
    """A pack takes texts in order until it holds at least so many tokens."""
    shard_packs: int = Field(default=512, ge=1)
    """Packs in a corpus shard: the work that a crash loses at most, and what one process does at a time."""

    @model_validator(mode="after")
    def _path_fits_source(self) -> "CorpusOptions":
        if (self.path is None) != (self.source == "standard_library"):
            raise ValueError(
                "path must name the folder or file of this corpus source"
                if self.path is None
                else "path must be left out for the standard_library source"
            )
        return self


class CheckpointOptions(Options):
    """One set of weights: a local folder or a Hub repository at a revision."""

    name: Slug
    """Shown on pages; the partition key is this and a piece of the hash of the weights."""
    path: StudyPath | None = None
    """A folder with config.json and safetensors. Relative paths start at the study file."""
    repository: str | None = None
    """A Hub id, `owner/name`."""
    revision: str | None = None
    """The Hub revision: a commit, tag or branch."""

    @model_validator(mode="after")
    def _one_place(self) -> "CheckpointOptions":
        if (self.path is None) == (self.repository is None):
            raise ValueError("give either path or repository")
        if self.repository is not None and self.revision is None:
            raise ValueError("give the revision of the repository, so that the weights cannot change unnoticed")
        return self


class DiscoveryOptions(Options):
    """Where checkpoints of the model appear by themselves, and which of them are taken."""

    folder: StudyPath | None = None
    """A folder whose folders are checkpoints, such as a Trainer's output. Relative paths start at the study file."""
    repository: str | None = None
    """A Hub id, whose branches and tags are checkpoints."""
    pattern: str = "checkpoint-*"
    """Which folders, or branches and tags, are meant; `*` and `?` as in a shell."""
    every: int = Field(default=1, ge=1)
    """Only those whose number, the last one in the name, is a multiple of this."""
    at_once: int = Field(default=4, ge=1)
    """How many are added at a time; the others wait for the next look."""
    keep: int | None = Field(default=None, ge=1)
    """So many of the newest stay on the site; older ones are retired: their pages stay where they are, and nothing is made or
    listed of them any more. All stay if absent."""

    @model_validator(mode="after")
    def _one_place(self) -> "DiscoveryOptions":
        if (self.folder is None) == (self.repository is None):
            raise ValueError("give either folder or repository")
        return self


class ModelOptions(Options):
    """The model family of a study and its checkpoints, in the order of training."""

    name: str
    layers: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=0)], ...]
    """How many layers there are, or, where only some have a gated MLP, the numbers of these; checked against the model."""
    stack: Literal["encoder", "decoder"] | None = None
    """Whose layers, in a model that has both."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """The dtype of the forward pass, whose signs decide the quadrant; `auto` is bfloat16 on a GPU, float32 on a CPU."""
    device_map: Literal["auto"] | None = None
    """`auto` spreads one copy of the model over all GPUs; otherwise each GPU that collects holds a whole one."""
    checkpoints: tuple[CheckpointOptions, ...] = ()
    discover: DiscoveryOptions | None = None
    """Where further checkpoints appear; they come after those that are listed."""

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """The layers with a gated MLP, ascending."""
        return tuple(range(self.layers)) if isinstance(self.layers, int) else self.layers

    @model_validator(mode="after")
    def _fits_together(self) -> "ModelOptions":
        numbers = list(self.layer_numbers)
        if not numbers or numbers != sorted(set(numbers)):
            raise ValueError("layers must be a number, or a list of layers in ascending order")
        if not self.checkpoints and self.discover is None:
            raise ValueError("list checkpoints, or say with discover where they appear")
        names = [checkpoint.name for checkpoint in self.checkpoints]
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise ValueError(f"checkpoint names must differ, and {sorted(repeated)[0]} is given twice")
        return self


class CollectionOptions(Options):
    """What one pass over the corpus keeps."""

    examples: int = Field(default=16, ge=1, le=256)
    """K: texts kept for each neuron, quadrant and activation."""
    window_before: int = Field(default=47, ge=0)
    """Positions kept before an example's peak."""
    window_after: int = Field(default=16, ge=0)
    """Positions kept after an example's peak."""
    count_special_tokens: bool = False
    """Whether BOS, EOS and other special tokens count, as in the paper's tables."""
    sample_positions: int = Field(default=8192, ge=0)
    """Positions of the uniform random sample."""

    @property
    def window(self) -> int:
        """Positions of a window, the peak included."""
        return self.window_before + 1 + self.window_after


class StorageOptions(Options):
    """What is kept on disk."""

    drop_merged_shards: bool = False
    """Remove a layer's activation shards once they are merged. Another merge then needs another forward pass."""


class TopNeurons(Options):
    """The neurons with the most or the least of a statistic. Ties go to the first neuron, and missing values come last."""

    top: int = Field(ge=1)
    """How many."""
    by: str
    """One of `STATISTICS` in `selection`, in the view of the study's pages."""
    of: Literal["layer", "checkpoint"] = "layer"
    """Whether so many of each layer, or of all the selection's layers together."""
    order: Literal["descending", "ascending"] = "descending"


def _kind_of_neurons(value: object) -> str | None:
    if isinstance(value, str):
        return "a word"
    if isinstance(value, int) and not isinstance(value, bool):
        return "a number"
    if isinstance(value, list | tuple):
        return "a list"
    return "a ranking" if isinstance(value, Mapping | TopNeurons) else None


Neurons = Annotated[
    Annotated[Literal["all"], Tag("a word")]
    | Annotated[int, Field(ge=1), Tag("a number")]
    | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), Tag("a list")]
    | Annotated[TopNeurons, Tag("a ranking")],
    Discriminator(
        _kind_of_neurons,
        custom_error_type="neurons",
        custom_error_message="write all, a number, a list of neurons, or {top: 50, by: STATISTIC}",
    ),
]
"""All neurons of a layer, the first so many, those listed, or the top of a ranking."""


class PageSelection(Options):
    """Which neurons of which layers of which checkpoints get pages."""

    checkpoints: Literal["last", "all"] | tuple[Slug, ...]
    layers: Literal["all"] | tuple[Annotated[int, Field(ge=0)], ...] = "all"
    neurons: Neurons

    def holds(self, checkpoint: str, is_last: bool, layer: int) -> bool:
        """Whether it is about a layer of the checkpoint of that name, which may be the study's last."""
        of_checkpoint = is_last if self.checkpoints == "last" else self.checkpoints == "all" or checkpoint in self.checkpoints
        return of_checkpoint and (self.layers == "all" or layer in self.layers)


class SiteOptions(Options):
    """The pages of a study."""

    pages: tuple[PageSelection, ...] = (PageSelection(checkpoints="last", neurons="all"),)
    """A neuron gets a page if any selection holds it."""
    view: Literal["oriented", "raw"] = "oriented"
    """Whether in and post are shown multiplied by the orientation."""
    dataset_license: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*$")
    """The license, such as mit, under which all tables lie beside the pages as a dataset; no dataset if absent."""


class GitTarget(Options):
    """A branch that a host such as GitHub Pages shows."""

    repository: str
    """An address or a path that git knows. Credentials come from git's own settings or the environment."""
    branch: str = "gh-pages"
    folder: str = Field(default="", pattern=r"^([A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*)?$")
    """Where in the branch; its top if absent."""


class BucketTarget(Options):
    """An S3-compatible bucket."""

    url: str = Field(pattern=r"^s3://[^/]+(/.*)?$")
    """`s3://bucket/prefix`."""
    endpoint: str | None = None
    """The address of a server other than Amazon's."""


class HubTarget(Options):
    """A Hugging Face repository."""

    repository: str = Field(pattern=r"^[^/\s]+/[^/\s]+$")
    kind: Literal["space", "dataset"] = "space"
    """A static Space shows the site; a dataset repository keeps it."""


class PublishOptions(Options):
    """Where the site goes when a person publishes it: one place, or none."""

    folder: StudyPath | None = None
    """A folder. Relative paths start at the study file."""
    git: GitTarget | None = None
    bucket: BucketTarget | None = None
    hugging_face: HubTarget | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "PublishOptions":
        if sum(target is not None for target in (self.folder, self.git, self.bucket, self.hugging_face)) > 1:
            raise ValueError("give one of folder, git, bucket and hugging_face")
        return self
