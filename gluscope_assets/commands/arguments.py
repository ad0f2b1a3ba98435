"""Arguments that several commands take: how they are declared, and the studies, layers and checkpoints that they name.

What belongs here: turning what was typed into what it names, or into one sentence that says why not. What does not: the
options of a single command, which stand at its function.
"""

import os
import re
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import Checkpoint
from gluscope_assets.core.paths import StudyFolder, default_home
from gluscope_assets.study.registry import with_registry
from gluscope_assets.study.study import STUDIES_VARIABLE, Study, find_study

StudyName = Annotated[str, Parameter(name="--study", help="A study's name or its YAML file.")]


def named_study(name: str) -> tuple[Study, StudyFolder]:
    """The study of a name or YAML file, with the checkpoints in its registry, and its folder."""
    study = find_study(name)
    if name != study.name:
        # It is named by its file; processes started from here know it too.
        os.environ[STUDIES_VARIABLE] = os.pathsep.join(filter(None, [os.environ.get(STUDIES_VARIABLE), str(study.file)]))
    folder = StudyFolder(default_home() / study.name)
    return with_registry(study, folder), folder


def named_layers(given: str | None, study: Study) -> list[int]:
    """The layers that `0,2-3` names, in order; all of the study's if nothing is given."""
    all_layers = study.model.layer_numbers
    if given is None:
        return list(all_layers)
    layers: set[int] = set()
    for span in given.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", span.strip())
        if match is None:
            raise InputError(f"--layers {given} is not a list of layers; write it like 0,2-3.")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or not {first, last} <= set(all_layers):
            numbers = ", ".join(map(str, all_layers)) if isinstance(study.model.layers, tuple) else f"0 to {all_layers[-1]}"
            raise InputError(f"--layers {given} names layers that {study.name} does not have; it has {numbers}.")
        layers.update(set(range(first, last + 1)) & set(all_layers))
    return sorted(layers)


def named_checkpoints(given: Sequence[str] | None, checkpoints: Sequence[Checkpoint], study: Study) -> list[Checkpoint]:
    """The checkpoints that names or keys name, in the order of training; all if nothing is given."""
    for name in given or ():
        if not any(name in (checkpoint.name, checkpoint.key) for checkpoint in checkpoints):
            names = ", ".join(checkpoint.name for checkpoint in checkpoints)
            raise InputError(f"{study.name} has no checkpoint {name}; it has {names}.")
    return [checkpoint for checkpoint in checkpoints if given is None or {checkpoint.name, checkpoint.key} & set(given)]
