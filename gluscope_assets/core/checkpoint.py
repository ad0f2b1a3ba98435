"""Checkpoints: where weights and tokenizer lie, their hash, and how a model is loaded from them.

Safetensors only, no code from the checkpoint is run. torch and transformers are imported inside the functions that
need them, because asset definitions import this module.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import hash_files
from gluscope_assets.core.options import CheckpointOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights on this machine."""

    name: str
    folder: Path
    weights_hash: str
    """SHA-256 over config.json and the safetensors files, in hex."""

    @property
    def key(self) -> str:
        """The partition key: the name and the first 7 digits of the weights' hash."""
        return f"{self.name}-{self.weights_hash[:7]}"


@dataclass(frozen=True)
class ModelShape:
    """What a checkpoint's config says, read without its weights."""

    layers: int
    """Layers with a gated MLP."""
    width: int
    """Neurons a layer."""
    activation: str
    """The config's name of σ, such as `silu`."""
    vocabulary: int
    """Rows of the embedding."""


def resolve_checkpoint(options: CheckpointOptions) -> Checkpoint:
    """Find the checkpoint's folder, downloading a Hub repository if need be, and hash its weights."""
    folder = options.path if options.path is not None else _download(options)
    if not (folder / "config.json").is_file():
        raise InputError(f"Checkpoint {options.name}: {folder} has no config.json; give the folder of a saved model.")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise InputError(f"Checkpoint {options.name}: {folder} has no *.safetensors file; save its weights as safetensors.")
    files = (folder / "config.json", *weights)
    stamp = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return Checkpoint(options.name, folder, _hash_unchanged(stamp))


@cache
def _hash_unchanged(stamp: tuple[tuple[str, int, int], ...]) -> str:
    # Sensors resolve checkpoints every minute; files of the same size and time are hashed once a process.
    return hash_files(*(Path(path) for path, _, _ in stamp))


def _download(options: CheckpointOptions) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES]
    try:
        return Path(snapshot_download(options.repository or "", revision=options.revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise InputError(
            f"Checkpoint {options.name}: {options.repository} at {options.revision} cannot be fetched from the Hub "
            f"({_first_line(error)}); check its id, revision, your access and the network."
        ) from error


def tokenizer_hash(checkpoint: Checkpoint) -> str:
    """SHA-256 over the tokenizer's files, in hex."""
    files = [checkpoint.folder / name for name in TOKENIZER_FILES if (checkpoint.folder / name).is_file()]
    if not files:
        raise InputError(f"Checkpoint {checkpoint.name}: {checkpoint.folder} has no tokenizer; save one beside its weights.")
    return hash_files(*files)


def load_tokenizer(checkpoint: Checkpoint) -> "PreTrainedTokenizerBase":
    """The checkpoint's tokenizer, which treats special tokens written out in a text as plain text."""
    from transformers import AutoTokenizer

    tokenizer_hash(checkpoint)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            checkpoint.folder, trust_remote_code=False, local_files_only=True, split_special_tokens=True
        )
    except Exception as error:  # tokenizers raises bare Exception for every kind of bad file
        raise InputError(
            f"Checkpoint {checkpoint.name}: the tokenizer in {checkpoint.folder} cannot be read "
            f"({_first_line(error)}); save it again."
        ) from error
    return tokenizer


def read_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's transformers config."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"Checkpoint {checkpoint.name}: config.json in {checkpoint.folder} cannot be used ({_first_line(error)})."
        ) from error


def _first_line(error: Exception) -> str:
    """What an error of another library says first."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def read_shape(checkpoint: Checkpoint) -> ModelShape:
    """The checkpoint's shape, from a model built without weights. InputError if it has no gated MLP."""
    import torch
    from transformers import AutoModel

    from gluscope_assets.core.gated_mlp import find_gated_mlps

    config = read_config(checkpoint)
    with torch.device("meta"):
        model = AutoModel.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    mlps = find_gated_mlps(model)
    activation = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None)
    return ModelShape(len(mlps), mlps[0].width, str(activation), model.get_input_embeddings().num_embeddings)


def check_checkpoint(checkpoint: Checkpoint, layers: int) -> ModelShape:
    """The checkpoint's shape. InputError if its layers or its tokenizer do not fit, or a file of weights is damaged."""
    from safetensors import SafetensorError, safe_open

    shape = read_shape(checkpoint)
    for path in sorted(checkpoint.folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise InputError(
                f"Checkpoint {checkpoint.name}: {path} is damaged ({_first_line(error)}); copy it again."
            ) from error
    if shape.layers != layers:
        raise InputError(
            f"Checkpoint {checkpoint.name} has {shape.layers} layers with a gated MLP and the study says {layers}; "
            f"set model.layers to {shape.layers}."
        )
    tokenizer = load_tokenizer(checkpoint)
    if len(tokenizer) > shape.vocabulary:
        raise InputError(
            f"The tokenizer of checkpoint {checkpoint.name} has {len(tokenizer)} tokens and the model's vocabulary only "
            f"{shape.vocabulary}; use the tokenizer that the model was trained with."
        )
    return shape


def load_model(checkpoint: Checkpoint, dtype: str, device: str) -> "PreTrainedModel":
    """The base model without its head, in `dtype` on `device`, ready for inference. InputError if weights are missing."""
    import torch
    from transformers import AutoModel

    model: PreTrainedModel
    try:
        model, loading = AutoModel.from_pretrained(
            checkpoint.folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"Checkpoint {checkpoint.name}: the weights in {checkpoint.folder} cannot be loaded ({_first_line(error)}); "
            f"save config.json and weights from one model."
        ) from error
    # transformers fills what is missing with random numbers.
    missing = sorted(loading["missing_keys"])
    if missing:
        raise InputError(
            f"Checkpoint {checkpoint.name}: the weights in {checkpoint.folder} lack {missing[0]}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}; save all weights of the model."
        )
    model.to(device)  # type: ignore[arg-type]
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
