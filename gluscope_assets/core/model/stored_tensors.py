"""Single tensors of a checkpoint, by the names that they have in a model of transformers.

What belongs here: which stored tensors a parameter is made of, and reading those and no others. The names and the
conversions are transformers' own, so that a tensor is what `from_pretrained` would load. What is computed from tensors
belongs to `weights`, whole models to `loading`.
"""

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.core_model_loading import WeightConverter


@dataclass
class _Recipe:
    """How one parameter, or several at once, are made of stored tensors."""

    parameter: str
    """The first of those that are made."""
    converter: "WeightConverter | None" = None
    """None if the one stored tensor is the parameter."""
    sources: dict[str, list[str]] = field(default_factory=dict)
    """Stored names by the converter's source pattern, in the order in which it takes them."""

    @property
    def parameters(self) -> list[str]:
        """All that are made."""
        if self.converter is None:
            return [self.parameter]
        patterns = self.converter.target_patterns
        return [self.parameter.replace(patterns[0], pattern) for pattern in patterns]

    def make(self, stored: "Mapping[str, list[Tensor]]", model: Any, config: Any) -> "dict[str, Tensor]":
        """The parameters, made of stored tensors by source pattern."""
        if self.converter is None:
            [[tensor]] = stored.values()
            return {self.parameter: tensor}
        # A converter holds the tensors that it is to convert.
        converter: Any = deepcopy(self.converter)
        for pattern, tensors in stored.items():
            for tensor in tensors:
                converter.add_tensor(self.parameter, pattern, pattern, tensor)
        made = converter.convert(self.parameter, model=model, config=config)
        return {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in made.items()}


class StoredTensors:
    """The tensors in a checkpoint's safetensors files.

    At first only names are read. A file is opened when a tensor in it is asked for, and stays open as long as this object
    lives. Tensors are on the CPU, in the stored dtype. They may share the file's pages: do not write to them.
    """

    def __init__(self, checkpoint: Checkpoint, model: "PreTrainedModel") -> None:
        """`model` gives names and shapes; its own weights are not used and may be on the meta device.

        InputError if the checkpoint is quantized, or has no file that transformers would load.
        """
        self._checkpoint, self._model = checkpoint, model
        self._refuse_quantized()
        self._opened: dict[Path, Any] = {}
        self._files = self._locate()
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self.embedding = _embedding(model)
        """The name of the input embedding's weight."""
        self._recipes, self._others = _match(model, self._files)
        if self.embedding not in self._recipes:
            # Of a head and an embedding that are tied either may be stored, and a base model has no head.
            for key in (self._others[head] for head in _tied_heads(model, self.embedding) if head in self._others):
                self._recipes[self.embedding] = _Recipe(self.embedding, None, {key: [key]})

    def read(self, name: str) -> "Tensor":
        """The model's parameter or buffer `name`. InputError if it is not stored or has another shape."""
        name = self._stored(name)
        recipe = self._recipes[name]
        stored = {pattern: [self._slice(key)[...] for key in keys] for pattern, keys in recipe.sources.items()}
        return self._make(name, stored, self._model, self._shapes[name])

    def read_expert(self, name: str, expert: int) -> "Tensor":
        """One expert's slice of the parameter `name`, whose first axis is that of experts: `read(name)[expert]`.

        Only that slice is read, unless transformers' conversion mixes experts. IndexError if there is no such expert,
        InputError as in `read`.
        """
        name = self._stored(name)
        experts, *shape = self._shapes[name]
        if not 0 <= expert < experts:
            raise IndexError(f"{name} has {experts} experts, and no expert {expert}")
        stored = self._of_expert(self._recipes[name], expert, experts)
        if stored is None:
            return self.read(name)[expert]
        return self._make(name, stored, _OneExpert(self._model), (1, *shape))[0]

    def find(self, name: str) -> "Tensor | None":
        """The tensor `name` if it is stored, else None.

        The name is one in the model, or that of a tensor which the model lacks, such as `lm_head.weight`. What comes before
        it may be left out where the embedding is stored under it too: `lm_head.weight` finds `language_model.lm_head.weight`.
        """
        for full in self._full_names(name):
            if full in self._recipes:
                return self.read(full)
            if full in self._others:
                tensor: Tensor = self._slice(self._others[full])[...]
                return tensor
        return None

    # Names

    def _refuse_quantized(self) -> None:
        config: Any = self._model.config
        inner = config.get_text_config(decoder=True)
        quantization = getattr(config, "quantization_config", None) or getattr(inner, "quantization_config", None)
        if quantization:
            options = quantization if isinstance(quantization, dict) else vars(quantization)
            method = options.get("quant_method", "no method named")
            raise InputError(
                f"Checkpoint {self._checkpoint.name}: the weights in {self._checkpoint.folder} are quantized "
                f"({getattr(method, 'value', method)}); use an unquantized checkpoint."
            )

    def _locate(self) -> dict[str, Path]:
        """The file of each stored tensor. Of several sets of files it is the one that transformers loads."""
        from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

        folder = self._checkpoint.folder
        named = getattr(self._model.config, "transformers_weights", None)
        for path in (folder / name for name in ([named] if named else [SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME])):
            if path.is_file() and path.suffix == ".json":
                try:
                    return {key: folder / file for key, file in json.loads(path.read_bytes())["weight_map"].items()}
                except (ValueError, KeyError) as error:
                    raise self._unreadable(path, error) from error
            if path.is_file():
                return dict.fromkeys(self._open(path).keys(), path)
        raise InputError(
            f"Checkpoint {self._checkpoint.name}: {folder} has no {named or SAFE_WEIGHTS_NAME} and no index of such files; "
            f"save its weights with save_pretrained."
        )

    def _stored(self, name: str) -> str:
        """`name`, or what it is tied to if only that is stored. InputError if neither is."""
        ties: dict[str, str] = dict(self._model.all_tied_weights_keys)
        source = ties.get(name, name)
        for same in (name, source, *(target for target in ties if ties[target] == source)):
            if same in self._recipes:
                return same
        raise InputError(
            f"Checkpoint {self._checkpoint.name}: the weights in {self._checkpoint.folder} lack {name}; save all weights of "
            f"the model."
        )

    def _full_names(self, name: str) -> list[str]:
        """`name` after each start of the embedding's stored name, the shortest first."""
        embedding = self._recipes.get(self.embedding)
        path = next(iter(embedding.sources.values()))[0].split(".") if embedding else []
        return [".".join((*path[:depth], name)) for depth in range(len(path) or 1)]

    # Tensors

    def _open(self, path: Path) -> Any:
        if path not in self._opened:
            try:
                self._opened[path] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise self._unreadable(path, error) from error
        return self._opened[path]

    def _slice(self, key: str) -> Any:
        """A stored tensor, of which nothing is read yet."""
        path = self._files[key]
        try:
            return self._open(path).get_slice(key)
        except SafetensorError as error:
            raise self._unreadable(path, error) from error

    def _unreadable(self, path: Path, error: Exception) -> InputError:
        return InputError(f"Checkpoint {self._checkpoint.name}: {path} cannot be read ({error}); copy it again.")

    def _of_expert(self, recipe: _Recipe, expert: int, experts: int) -> "dict[str, list[Tensor]] | None":
        """An expert's slice of each source; None if the conversion needs the others too."""
        from transformers.core_model_loading import MergeModulelist

        operations = recipe.converter.operations if recipe.converter else []
        merges = bool(operations) and isinstance(operations[0], MergeModulelist) and operations[0].dim == 0
        if not _keep_experts_apart(operations[1:] if merges else operations):
            return None
        if merges:
            # One stored tensor for each expert. If one is missing, nobody knows which, and reading all says so.
            if any(len(keys) != experts for keys in recipe.sources.values()):
                return None
            return {pattern: [self._slice(keys[expert])[...]] for pattern, keys in recipe.sources.items()}
        slices = {pattern: [self._slice(key) for key in keys] for pattern, keys in recipe.sources.items()}
        if any(whole.get_shape()[:1] != [experts] for wholes in slices.values() for whole in wholes):
            return None
        return {pattern: [whole[expert : expert + 1] for whole in wholes] for pattern, wholes in slices.items()}

    def _make(self, name: str, stored: "Mapping[str, list[Tensor]]", model: Any, shape: tuple[int, ...]) -> "Tensor":
        """The parameter `name` of its sources. InputError if they do not make a tensor of that shape."""
        try:
            tensor = self._recipes[name].make(stored, model, self._model.config)[name]
            if tensor.shape != shape:
                raise ValueError(f"they make {list(tensor.shape)} instead of {list(shape)}")
        # What conversions raise if sources are missing or have other shapes.
        except (RuntimeError, ValueError, LookupError) as error:
            raise InputError(
                f"Checkpoint {self._checkpoint.name}: the tensors for {name} in {self._checkpoint.folder} do not fit its "
                f"config.json ({error}); save config.json and all weights from one model."
            ) from error
        return tensor


class _OneExpert:
    """A model as conversions of one expert's slice see it; they ask for shapes."""

    def __init__(self, model: "PreTrainedModel") -> None:
        self._model = model

    def get_parameter(self, name: str) -> "Tensor":
        parameter: Tensor = self._model.get_parameter(name)[:1]
        return parameter


def _match(model: "PreTrainedModel", keys: Iterable[str]) -> tuple[dict[str, _Recipe], dict[str, str]]:
    """A recipe for each parameter of the model, and all other keys by what they are called before and after renaming.

    As transformers' `convert_and_load_state_dict_in_model` does it, in the same order, which is that of the experts.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    state = model.state_dict()
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    converter_of = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    recipes: dict[str, _Recipe] = {}
    others: dict[str, str] = {}
    for key in sorted(keys, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, state)
        if name not in state and key in state:
            name, pattern = rename_source_key(key, [], [], model.base_model_prefix, state)
        if name not in state:
            others[key] = key
            others.setdefault(name, key)
            continue
        recipe = recipes.setdefault(name, _Recipe(name, None if pattern is None else converter_of[pattern]))
        if recipe.converter is not None or not recipe.sources:
            recipe.sources.setdefault(key if pattern is None else pattern, []).append(key)
    return {name: recipe for recipe in recipes.values() for name in recipe.parameters}, others


def _keep_experts_apart(operations: Iterable[object]) -> bool:
    """Whether no operation moves anything along the first of a parameter's three axes."""
    from transformers.core_model_loading import Chunk, Concatenate, Interleave, Split, Transpose

    return all(
        isinstance(operation, (Chunk, Concatenate, Interleave, Split, Transpose))
        and {axis for axis in vars(operation).values() if type(axis) is int} <= {1, 2, -1, -2}
        for operation in operations
    )


def _embedding(model: "PreTrainedModel") -> str:
    """The name of the input embedding's weight."""
    weight: object = getattr(model.get_input_embeddings(), "weight", None)
    return next((name for name, parameter in model.named_parameters() if parameter is weight), "")


def _tied_heads(model: "PreTrainedModel", embedding: str) -> list[str]:
    """The names of heads that the classes which the checkpoint was saved from tie to the embedding."""
    import transformers

    if not getattr(model.config, "tie_word_embeddings", False):
        return []
    classes = (getattr(transformers, name, None) for name in model.config.architectures or ())
    ties = [tie for saved in classes for tie in (getattr(saved, "_tied_weights_keys", None) or {}).items()]
    return [head for head, source in ties if source.removeprefix(f"{model.base_model_prefix}.") == embedding]
