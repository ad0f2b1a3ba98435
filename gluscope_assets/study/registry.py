"""The registry: which checkpoints have appeared where a study says they do, and which of them are retired.

A file in the study's folder, because definitions are loaded again for every run and must know the checkpoints without
looking for them. Looking belongs to `core/model/discovery.py`; who looks when, to `orchestration/sensors.py` and `commands`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import replacing
from gluscope_assets.core.model.checkpoint import Checkpoint, resolve_checkpoint
from gluscope_assets.core.model.discovery import find_candidates, weights_hash
from gluscope_assets.core.options import CheckpointOptions, Options
from gluscope_assets.core.paths import StudyFolder
from gluscope_assets.study.study import Study


class AppearedCheckpoint(Options):
    """A checkpoint that has appeared."""

    options: CheckpointOptions
    weights_hash: str
    same_as: str | None = None
    """The checkpoint with these very weights, which stands for this one too."""
    retired: bool = False
    """No longer on the site. Its pages stay where links find them."""

    @property
    def key(self) -> str:
        """Of its partition."""
        return Checkpoint(self.options.name, Path(), self.weights_hash).key


class Registry(Options):
    """All that have appeared, in the order of training."""

    appeared: tuple[AppearedCheckpoint, ...] = Field(default=(), alias="found")


@dataclass(frozen=True)
class Look:
    """What one look for checkpoints gave."""

    added: tuple[str, ...]
    """Names of new checkpoints."""
    same: tuple[tuple[str, str], ...]
    """(name, the earlier checkpoint with the same weights) of new ones that cost nothing."""
    retired: tuple[str, ...]
    unfinished: tuple[str, ...]
    """Still being written."""
    left: int
    """New ones that wait for the next look."""

    @property
    def is_empty(self) -> bool:
        return self == Look((), (), (), (), 0)

    @property
    def sentence(self) -> str:
        """What a person reads of it."""
        said = [f"new: {', '.join(self.added)}"] if self.added else []
        said += [f"{name} has the weights of {other} and costs nothing" for name, other in self.same]
        said += [f"retired: {', '.join(self.retired)}"] if self.retired else []
        said += [f"not complete yet: {', '.join(self.unfinished)}"] if self.unfinished else []
        said += [f"{self.left} more at the next look"] if self.left else []
        return "; ".join(said) or "no new checkpoint"


def read_registry(folder: StudyFolder) -> Registry:
    """The registry of a study; empty if none has appeared yet. InputError if the file is damaged."""
    if not folder.registry.is_file():
        return Registry()
    try:
        return Registry.model_validate_json(folder.registry.read_text())
    except ValidationError as error:
        raise InputError(f"{folder.registry} is damaged; delete it, and the checkpoints are looked for again.") from error


def retired_keys(folder: StudyFolder) -> list[str]:
    """The keys of the checkpoints that are no longer on the site."""
    return [checkpoint.key for checkpoint in read_registry(folder).appeared if checkpoint.retired]


def with_registry(study: Study, folder: StudyFolder) -> Study:
    """The study with the checkpoints that have appeared and are not retired after the listed ones."""
    if study.model.discover is None:
        return study
    listed = study.model.checkpoints
    names = {checkpoint.name for checkpoint in listed}
    appeared = [
        one.options
        for one in read_registry(folder).appeared
        if one.same_as is None and not one.retired and one.options.name not in names
    ]
    model = study.model.model_copy(update={"checkpoints": (*listed, *appeared)})
    return study.model_copy(update={"model": model})


def checkpoint_of(study: Study, checkpoint_key: str) -> Checkpoint:
    """The checkpoint that a partition key stands for. InputError if the study has no such weights any more."""
    for options in study.model.checkpoints:
        if checkpoint_key.startswith(f"{options.name}-"):
            checkpoint = resolve_checkpoint(options)
            if checkpoint.key == checkpoint_key:
                return checkpoint
    raise InputError(
        f"{study.file} has no checkpoint with the weights of {checkpoint_key}; "
        f"name them in model.checkpoints or choose another partition."
    )


def look_for_checkpoints(study: Study, folder: StudyFolder) -> Look:
    """Look where the study says checkpoints appear, and put what is new into the registry. InputError as `find_candidates`."""
    discover = study.model.discover
    if discover is None:
        return Look((), (), (), (), 0)
    before = read_registry(folder).appeared
    by_name = {one.options.name: one for one in before}
    listed = {weights_hash(one): one.name for one in study.model.checkpoints}
    hashes = listed | {one.weights_hash: name for name, one in by_name.items() if one.same_as is None}
    candidates, unfinished = find_candidates(discover)
    names = {one.name for one in study.model.checkpoints}
    new = [candidate for candidate in candidates if candidate.name not in by_name and candidate.name not in names]
    added, same = [], []
    for candidate in new[: discover.at_once]:
        digest = weights_hash(candidate.options)
        other = hashes.setdefault(digest, candidate.name)
        is_same = other != candidate.name
        by_name[candidate.name] = AppearedCheckpoint(
            options=candidate.options, weights_hash=digest, same_as=other if is_same else None
        )
        if is_same:
            same.append((candidate.name, other))
        else:
            added.append(candidate.name)
    order = {candidate.name: number for number, candidate in enumerate(candidates)}
    # One whose folder is gone stays before all that are there.
    ordered = sorted(by_name.values(), key=lambda one: order.get(one.options.name, -1))
    settled, retired = _retire(ordered, discover.keep)
    if settled != before:
        with replacing(folder.registry) as temporary:
            temporary.write_text(json.dumps(Registry(found=settled).model_dump(mode="json", by_alias=True), indent=1) + "\n")
    return Look(tuple(added), tuple(same), retired, tuple(unfinished), max(len(new) - discover.at_once, 0))


def _retire(appeared: Sequence[AppearedCheckpoint], keep: int | None) -> tuple[tuple[AppearedCheckpoint, ...], tuple[str, ...]]:
    """All but the last `keep` retired, and the names of those that were not before."""
    own = [one.options.name for one in appeared if one.same_as is None]
    staying = set(own if keep is None else own[-keep:])
    settled, fresh = [], []
    for one in appeared:
        retired = one.same_as is None and one.options.name not in staying
        fresh += [one.options.name] if retired and not one.retired else []
        settled.append(one.model_copy(update={"retired": retired}))
    return tuple(settled), tuple(fresh)
