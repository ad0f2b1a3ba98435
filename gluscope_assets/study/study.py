"""A study: its YAML file, read and validated.

Here: the shape of a study file, how relative paths are meant, and the sentence a person reads when the file is wrong.
The options of each stage are in `core/options.py`; where results are stored is in `core/paths.py`.
"""

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError, model_validator

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.options import (
    CollectionOptions,
    CorpusOptions,
    ModelOptions,
    Options,
    PublishOptions,
    SiteOptions,
    StorageOptions,
    TopNeurons,
)
from gluscope_assets.core.pages.selection import check_statistic

STUDIES_VARIABLE = "GLUSCOPE_STUDIES"
"""The environment variable that names further study files, or folders of them, separated as in PATH."""

SHIPPED = Path(__file__).parent


class Study(Options):
    """One model family on one corpus with one set of options."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
    """What asset keys begin with, and the name of the study's folder."""
    title: str
    """The heading of the site."""
    description: str = ""
    """What a reader of the site should know about model and corpus."""
    model: ModelOptions
    corpus: CorpusOptions
    collection: CollectionOptions = CollectionOptions()
    storage: StorageOptions = StorageOptions()
    site: SiteOptions = SiteOptions()
    publish: PublishOptions = PublishOptions()
    file: Path = Field(exclude=True)
    """Where the study was read from; set by `load_study`, never written in the file."""

    @model_validator(mode="after")
    def _pages_are_there(self) -> "Study":
        names, layers = [checkpoint.name for checkpoint in self.model.checkpoints], self.model.layer_numbers
        for selection in self.site.pages:
            for name in () if isinstance(selection.checkpoints, str) else selection.checkpoints:
                if name not in names and self.model.discover is None:
                    raise ValueError(f"site.pages names the checkpoint {name}, and the study has only {', '.join(names)}")
            for layer in () if selection.layers == "all" else selection.layers:
                if layer not in layers:
                    raise ValueError(f"site.pages names layer {layer}, and the study has only {', '.join(map(str, layers))}")
            if isinstance(selection.neurons, TopNeurons):
                check_statistic(selection.neurons.by)
        return self


def load_study(file: Path) -> Study:
    """Read and validate a study file. InputError names the file and the field."""
    file = file.resolve()
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The study file {file} cannot be read ({error.strerror}); give the path of a YAML file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The study file {file} is not valid UTF-8 at byte {error.start}; save it as UTF-8.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else str(error)
        raise InputError(f"The study file {file} is not YAML ({where}); mend that line.") from error
    if not isinstance(content, dict):
        raise InputError(f"The study file {file} holds no fields; it needs at least name, title, model and corpus.")
    if "file" in content:
        raise InputError(f"{file}: unknown field file; remove it.")
    try:
        return Study.model_validate({**content, "file": file}, context={"folder": file.parent})
    except ValidationError as error:
        raise InputError(f"{file}: {_sentence(error)}") from error


def find_studies() -> dict[str, Study]:
    """The shipped studies and those that $GLUSCOPE_STUDIES names, by name."""
    studies: dict[str, Study] = {}
    for file in [*sorted(SHIPPED.glob("*.yaml")), *_named_files(os.environ.get(STUDIES_VARIABLE, ""))]:
        study = load_study(file)
        if study.name in studies and studies[study.name].file != study.file:
            raise InputError(f"{study.file}: name: {studies[study.name].file} is called {study.name} too; rename one.")
        studies[study.name] = study
    return studies


def find_study(name: str | Path) -> Study:
    """The study of a name that `find_studies` has, or of a study file. InputError if there is none."""
    if isinstance(name, Path) or name.endswith((".yaml", ".yml")):
        return load_study(Path(name))
    studies = find_studies()
    if name not in studies:
        raise InputError(
            f"There is no study {name}; give one of {', '.join(sorted(studies))}, or a study file, or name its file in "
            f"${STUDIES_VARIABLE}."
        )
    return studies[name]


def _named_files(paths: str) -> Iterator[Path]:
    for path in map(Path, filter(None, paths.split(os.pathsep))):
        if path.is_dir():
            yield from sorted(path.glob("*.yaml"))
        else:
            yield path


def _sentence(error: ValidationError) -> str:
    """The first of the errors, as a sentence that names the field and says what to do."""
    # A union reports every member that failed; an unknown field is the likelier cause than a wrong type.
    first, names = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden"), _field_names()
    is_unknown, end = first["type"] == "extra_forbidden", len(first["loc"]) - 1
    # What is no field says which member of a union was tried.
    path = [
        step
        for depth, step in enumerate(first["loc"])
        if isinstance(step, int) or step in names or (is_unknown and depth == end)
    ]
    field = ".".join(map(str, path))
    if is_unknown:
        near = difflib.get_close_matches(str(first["loc"][-1]), names, n=1)
        return f"unknown field {field}; " + (f"did you mean {near[0]}?" if near else "remove it.")
    if first["type"] == "missing":
        return f"{field} is missing; add it."
    message = first["msg"].removeprefix("Value error, ").removesuffix(".")
    return f"{field}: {message}." if field else f"{message}."


def _field_names() -> list[str]:
    """The names of all fields of all options."""
    options: list[type[Options]] = [Study, *Options.__subclasses__()]
    return sorted({name for option in options for name in option.model_fields} - {"file"})
