"""Opening a checkpoint: its tokenizer, its config, its model with and without weights, and whether it fits its study.

Safetensors only, no code from the checkpoint is run. What a checkpoint is and where its files lie is said in `checkpoint`,
which is enough for stages that open none. torch and transformers are imported inside the functions that need them, because
asset definitions import this module.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gluscope_assets.core.errors import InputError, first_line
from gluscope_assets.core.model.activation import activation_function
from gluscope_assets.core.model.checkpoint import Checkpoint, tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from gluscope_assets.core.model.anatomy import Anatomy
    from gluscope_assets.core.model.gated_mlp import GatedMLP, Stack


@dataclass(frozen=True)
class ModelShape:
    """What a checkpoint's config says, read without its weights."""

    mlps: "tuple[GatedMLP, ...]"
    """By layer."""
    vocabulary: int
    """Rows of the embedding."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The numbers of the layers with a gated MLP, ascending."""
        return tuple(sorted({mlp.layer for mlp in self.mlps}))

    def neurons(self, layer: int) -> int:
        """Neurons of a layer, those of all its experts counted."""
        return sum(mlp.width for mlp in self.mlps if mlp.layer == layer)


def load_tokenizer(checkpoint: Checkpoint) -> "PreTrainedTokenizerBase":
    """The checkpoint's tokenizer, which treats special tokens written out in a text as plain text.

    InputError if there is none or it cannot be read.
    """
    from transformers import AutoTokenizer

    tokenizer_hash(checkpoint)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            checkpoint.folder, trust_remote_code=False, local_files_only=True, split_special_tokens=True
        )
    except Exception as error:  # tokenizers raises bare Exception for every kind of bad file
        raise InputError(
            f"Checkpoint {checkpoint.name}: the tokenizer in {checkpoint.folder} cannot be read "
            f"({first_line(error)}); save it again."
        ) from error
    return tokenizer


def read_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's transformers config. InputError if it cannot be used, or needs code from the checkpoint."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, json.JSONDecodeError) as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                f"Checkpoint {checkpoint.name}: {checkpoint.folder} needs code of its own, which is never run; choose a model "
                f"whose code is part of transformers."
            ) from error
        raise InputError(
            f"Checkpoint {checkpoint.name}: config.json in {checkpoint.folder} cannot be used ({first_line(error)})."
        ) from error


def base_model(checkpoint: Checkpoint) -> "PreTrainedModel":
    """The base model without its head and without weights, on the meta device. InputError if transformers cannot build it."""
    import torch
    from transformers import AutoModel

    config = read_config(checkpoint)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModel.from_config(config, trust_remote_code=False)
    except (ValueError, ImportError) as error:
        raise InputError(
            f"Checkpoint {checkpoint.name}: transformers cannot build a {config.model_type} model without other code "
            f"({first_line(error)}); choose a model whose code is part of transformers."
        ) from error
    model.train(False)
    return model


def read_anatomy(checkpoint: Checkpoint, stack: "Stack | None" = None) -> "Anatomy":
    """What the checkpoint's model runs on text, found without weights where that suffices. InputError as `look_through`."""
    from gluscope_assets.core.model.anatomy import NeedsWeights, look_through

    try:
        return look_through(base_model(checkpoint), stack)
    except NeedsWeights:
        return look_through(load_model(checkpoint, "float32", "cpu"), stack)


def read_shape(checkpoint: Checkpoint, stack: "Stack | None" = None) -> ModelShape:
    """The checkpoint's shape. InputError if it has no gated MLP."""
    anatomy = read_anatomy(checkpoint, stack)
    embedding: Any = base_model(checkpoint).get_input_embeddings()
    return ModelShape(anatomy.mlps, int(embedding.weight.shape[0]))


def check_checkpoint(checkpoint: Checkpoint, layers: Sequence[int], stack: "Stack | None" = None) -> ModelShape:
    """The checkpoint's shape. InputError if its layers or its tokenizer do not fit, or a file of weights is damaged."""
    from safetensors import SafetensorError, safe_open

    shape = read_shape(checkpoint, stack)
    for path in sorted(checkpoint.folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise InputError(
                f"Checkpoint {checkpoint.name}: {path} is damaged ({first_line(error)}); copy it again."
            ) from error
    if shape.layers != tuple(layers):
        raise InputError(
            f"Checkpoint {checkpoint.name} has gated MLPs in {describe_layers(shape.layers)} and the study says "
            f"{describe_layers(layers)}; set model.layers to {layers_option(shape.layers)}."
        )
    for mlp in shape.mlps:
        activation_function(mlp.activation)
        if mlp.runs > 1:
            raise InputError(
                f"Checkpoint {checkpoint.name} runs {mlp.path} {mlp.runs} times in one pass, so that its neurons have no "
                f"single value at a position; choose a model whose layers run once."
            )
    tokenizer = load_tokenizer(checkpoint)
    if len(tokenizer) > shape.vocabulary:
        raise InputError(
            f"The tokenizer of checkpoint {checkpoint.name} has {len(tokenizer)} tokens and the model's vocabulary only "
            f"{shape.vocabulary}; use the tokenizer that the model was trained with."
        )
    return shape


def layers_option(layers: Sequence[int]) -> int | list[int]:
    """`model.layers` of a study with these layers."""
    return len(layers) if list(layers) == list(range(len(layers))) else list(layers)


def describe_layers(layers: Sequence[int]) -> str:
    """`4 layers`, or `the layers 1, 3, 5`."""
    option = layers_option(layers)
    return f"{option} layers" if isinstance(option, int) else f"the layers {', '.join(map(str, option))}"


def load_model(checkpoint: Checkpoint, dtype: str, device: str, device_map: str | None = None) -> "PreTrainedModel":
    """The base model without its head, in `dtype` on `device`, ready for inference. InputError if weights are missing.

    With a `device_map` it is spread over all GPUs instead.
    """
    import torch
    from transformers import AutoModel

    model: PreTrainedModel
    try:
        model, loading = AutoModel.from_pretrained(
            checkpoint.folder,
            dtype=getattr(torch, dtype),
            # Straight to a GPU, without a copy in the host's memory.
            device_map=device_map or (None if device == "cpu" else {"": device}),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise InputError(
            f"Checkpoint {checkpoint.name}: the weights in {checkpoint.folder} cannot be loaded ({first_line(error)}); "
            f"save config.json and weights from one model."
        ) from error
    # transformers fills what is missing with random numbers.
    missing = sorted(loading["missing_keys"])
    if missing:
        raise InputError(
            f"Checkpoint {checkpoint.name}: the weights in {checkpoint.folder} lack {missing[0]}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}; save all weights of the model."
        )
    elsewhere = sorted({parameter.device.type for parameter in model.parameters()} - {"cuda", "cpu"})
    if elsewhere:
        raise InputError(
            f"Checkpoint {checkpoint.name} does not fit the memory of the GPUs: parts of it lie on {elsewhere[0]}; use more "
            f"GPUs or a narrower model.dtype."
        )
    model.train(False)
    return model


def all_devices() -> list[str]:
    """Every GPU, `cuda:0` and so on; `cpu` alone if there is none."""
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def forward_dtype(dtype: str, device: str) -> str:
    """`auto` resolved: bfloat16 on a GPU that has it, else float32, so that every CPU gives the same numbers."""
    import torch

    if dtype != "auto":
        return dtype
    return "bfloat16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "float32"
