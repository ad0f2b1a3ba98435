"""Finding checkpoints: complete ones in a folder that something else fills, and branches and tags of a Hub repository.

Nothing is remembered here (that belongs to `registry`) and no weights are loaded or downloaded.
"""

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import sha256_of
from gluscope_assets.core.model.checkpoint import hash_of_weights, hub_errors, resolve_checkpoint
from gluscope_assets.core.options import CheckpointOptions, DiscoveryOptions

CONFIG = "config.json"
WEIGHTS_INDEX = "model.safetensors.index.json"


def find_candidates(options: DiscoveryOptions) -> tuple[list[CheckpointOptions], list[str]]:
    """The complete checkpoints that `options` describe, in the order of training, and the names of those not complete yet.

    InputError if the folder does not exist or the Hub cannot be asked.
    """
    complete, waiting = _in_folder(options) if options.folder is not None else (_on_hub(options), [])
    chosen = [complete[name] for name in sorted(complete, key=_order)]
    return [candidate for candidate in chosen if _number(candidate.name) % options.every == 0], sorted(waiting)


def weights_hash(options: CheckpointOptions) -> str:
    """The hash of a checkpoint's weights, of a Hub repository without downloading them. InputError as `resolve_checkpoint`."""
    return resolve_checkpoint(options).weights_hash if options.path is not None else _hash_on_hub(options)


def is_complete(folder: Path) -> bool:
    """Whether nobody is still writing a checkpoint: each file that belongs to it is there and as long as it says it is."""
    weights, index = sorted(folder.glob("*.safetensors")), folder / WEIGHTS_INDEX
    try:
        json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        named = json.loads(index.read_text())["weight_map"].values() if index.is_file() else ()
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return bool(weights) and {path.name for path in weights} >= set(named) and all(map(_is_whole, weights))


def _is_whole(weights: Path) -> bool:
    """Whether a safetensors file is as long as its header says: 8 bytes for the header's length, the header, the tensors."""
    try:
        with weights.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = weights.stat().st_size
            if 8 + length > size:
                return False
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return size == 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _in_folder(options: DiscoveryOptions) -> tuple[dict[str, CheckpointOptions], list[str]]:
    """The complete checkpoints by the names of their folders, and the names of the others."""
    folder = options.folder
    assert folder is not None
    if not folder.is_dir():
        raise InputError(f"model.discover.folder: {folder} does not exist; create it or name the one that training writes to.")
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and fnmatchcase(path.name, options.pattern)]
    complete = {path.name: CheckpointOptions(name=slug(path.name), path=path) for path in folders if is_complete(path)}
    return complete, [path.name for path in folders if path.name not in complete]


def _on_hub(options: DiscoveryOptions) -> dict[str, CheckpointOptions]:
    """The checkpoints by their branches and tags."""
    from huggingface_hub import HfApi

    repository = options.repository or ""
    with hub_errors("model.discover", repository, None):
        refs = HfApi().list_repo_refs(repository)
    return {
        # By commit: a branch moves, and the weights of a partition never change.
        ref.name: CheckpointOptions(name=slug(ref.name), repository=repository, revision=ref.target_commit)
        for ref in (*refs.branches, *refs.tags)
        if fnmatchcase(ref.name, options.pattern)
    }


def _hash_on_hub(options: CheckpointOptions) -> str:
    from huggingface_hub import HfApi, hf_hub_download

    repository, revision = options.repository or "", options.revision
    with hub_errors(f"Checkpoint {options.name}", repository, revision):
        files = HfApi().model_info(repository, revision=revision, files_metadata=True).siblings or []
        config = Path(hf_hub_download(repository, CONFIG, revision=revision))
    weights = sorted((file.rfilename, file.lfs) for file in files if fnmatchcase(file.rfilename, "*.safetensors"))
    digests = [stored.sha256 for _, stored in weights if stored is not None]
    if not digests or len(digests) < len(weights):
        raise InputError(f"Checkpoint {options.name}: {repository} at {revision} has no safetensors file; convert its weights.")
    return hash_of_weights(sha256_of(config), digests)


def slug(name: str) -> str:
    """A name that a partition key and a folder may have."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:80] or "checkpoint"


def _order(name: str) -> tuple[object, ...]:
    """Sorts names as training goes: by the numbers in them."""
    return tuple((0, int(run), "") if run.isdigit() else (1, 0, run) for run in re.split(r"(\d+)", name) if run)


def _number(name: str) -> int:
    """The last one in a name, 0 if there is none."""
    return int(re.findall(r"\d+", f"0 {name}")[-1])
