"""The registry: which checkpoints have appeared where a study says they do, and which of them are retired.

A file in the study's folder, because definitions are loaded again for every run and must know the checkpoints without
looking for them. Looking belongs to `core/model/discovery.py`; who looks when, to `orchestration/sensors.py` and `commands`.
"""

import json
from collections.abc import Sequence

from pydantic import Field, ValidationError

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import replacing
from gluscope_assets.core.model.checkpoint import Checkpoint, resolve_checkpoint
from gluscope_assets.core.model.discovery import find_candidates, weights_hash
from gluscope_assets.core.options import CheckpointOptions, Options
from gluscope_assets.core.paths import StudyFolder, checkpoint_key
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
        return checkpoint_key(self.options.name, self.weights_hash)


class Registry(Options):
    """All that have appeared, in the order of training."""

    appeared: tuple[AppearedCheckpoint, ...] = Field(default=(), alias="found")

    @property
    def current(self) -> list[AppearedCheckpoint]:
        """Those that are neither retired nor the same as another one."""
        return [one for one in self.appeared if one.same_as is None and not one.retired]


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
    appeared = [one.options for one in read_registry(folder).current if one.options.name not in names]
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


def look_for_checkpoints(study: Study, folder: StudyFolder) -> str:
    """Look where the study says checkpoints appear, put what is new into the registry, and say what that was.

    InputError as `find_candidates`.
    """
    discover = study.model.discover
    if discover is None:
        return _told((), (), (), 0)
    before = read_registry(folder).appeared
    by_name = {one.options.name: one for one in before}
    listed = {weights_hash(one): one.name for one in study.model.checkpoints}
    hashes = listed | {one.weights_hash: name for name, one in by_name.items() if one.same_as is None}
    candidates, unfinished = find_candidates(discover)
    names = by_name.keys() | {one.name for one in study.model.checkpoints}
    new = [candidate for candidate in candidates if candidate.name not in names]
    for candidate in new[: discover.at_once]:
        digest = weights_hash(candidate)
        first = hashes.setdefault(digest, candidate.name)
        by_name[candidate.name] = AppearedCheckpoint(
            options=candidate, weights_hash=digest, same_as=first if first != candidate.name else None
        )
    order = {candidate.name: number for number, candidate in enumerate(candidates)}
    # One whose folder is gone stays before all that are there.
    ordered = sorted(by_name.values(), key=lambda one: order.get(one.options.name, -1))
    settled = _retire(ordered, discover.keep)
    if settled != before:
        with replacing(folder.registry) as temporary:
            temporary.write_text(json.dumps(Registry(found=settled).model_dump(mode="json", by_alias=True), indent=1) + "\n")
    return _told(before, settled, unfinished, max(len(new) - discover.at_once, 0))


def _retire(appeared: Sequence[AppearedCheckpoint], keep: int | None) -> tuple[AppearedCheckpoint, ...]:
    """All but the last `keep` retired."""
    own = [one.options.name for one in appeared if one.same_as is None]
    retired = set(() if keep is None else own[:-keep])
    return tuple(one.model_copy(update={"retired": one.options.name in retired}) for one in appeared)


def _told(
    before: Sequence[AppearedCheckpoint], after: Sequence[AppearedCheckpoint], unfinished: Sequence[str], left: int
) -> str:
    """What a person reads of a look; `unfinished` are still being written, and `left` new ones wait for the next look."""
    present, gone = ({one.options.name for one in before if one.retired is retired} for retired in (False, True))
    fresh = [one for one in after if one.options.name not in present | gone]
    added = [one.options.name for one in fresh if one.same_as is None]
    retired = [one.options.name for one in after if one.retired and one.options.name not in gone]
    said = [f"new: {', '.join(added)}"] if added else []
    said += [f"{one.options.name} has the weights of {one.same_as} and costs nothing" for one in fresh if one.same_as]
    said += [f"retired: {', '.join(retired)}"] if retired else []
    said += [f"not complete yet: {', '.join(unfinished)}"] if unfinished else []
    said += [f"{left} more at the next look"] if left else []
    return "; ".join(said) or "no new checkpoint"
