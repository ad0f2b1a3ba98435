"""What a checkpoint is: the folder of its weights and tokenizer, on this machine or fetched from the Hub, and their hashes.

What belongs here: names, files and hashes, which stages, sensors and pages ask for. What does not: anything that reads the
config, the tokenizer or the weights (`loading`), so that this module imports neither torch nor transformers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gluscope_assets.core.errors import InputError, first_line
from gluscope_assets.core.files import hash_files, hash_of, sha256_of
from gluscope_assets.core.options import CheckpointOptions
from gluscope_assets.core.paths import checkpoint_key

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
CONFIG_FILES = ("config.json", *TOKENIZER_FILES)
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights on this machine."""

    name: str
    folder: Path
    weights_hash: str
    """`hash_of_weights` of config.json and the safetensors files, in hex."""

    @property
    def key(self) -> str:
        """The partition key: the name and the first digits of the weights' hash."""
        return checkpoint_key(self.name, self.weights_hash)


def resolve_checkpoint(options: CheckpointOptions) -> Checkpoint:
    """Find the checkpoint's folder, downloading a Hub repository if need be, and hash its weights.

    InputError if the folder holds no config or no safetensors file, or as `hub_errors`.
    """
    folder = options.path
    if folder is None:
        folder = _download(options.name, options.repository or "", options.revision, (*CONFIG_FILES, *WEIGHT_FILES))
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
    config, *weights = (sha256_of(Path(path)) for path, _, _ in stamp)
    return hash_of_weights(config, weights)


def hash_of_weights(config: str, weights: Sequence[str]) -> str:
    """A checkpoint's hash from the SHA-256 of config.json and of its safetensors files by name, which the Hub tells too."""
    return hash_of(config, list(weights))


def fetch_config(repository: str, revision: str | None) -> tuple[Path, str]:
    """Fetch a Hub repository's config and tokenizer, without weights: the folder, and the commit of the revision.

    InputError as `hub_errors`.
    """
    name = repository.split("/")[-1]
    folder = _download(name, repository, revision, CONFIG_FILES)
    # The Hub's cache names a folder by the commit.
    return folder, folder.name


def _download(name: str, repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    with hub_errors(f"Checkpoint {name}", repository, revision):
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))


@contextmanager
def hub_errors(name: str, repository: str, revision: str | None) -> Iterator[None]:
    """InputError, which begins with `name`, for what the Hub refuses."""
    from huggingface_hub import errors

    where = f"{repository} at {revision}" if revision else repository
    try:
        yield
    except errors.GatedRepoError as error:
        raise InputError(
            f"{name}: {repository} is gated; accept its terms on the Hub and set HF_TOKEN to a token that may read it."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: the Hub has no {repository} that you may read; check the id, or set HF_TOKEN if it is private."
        ) from error
    except (errors.RevisionNotFoundError, errors.RevisionResolutionError) as error:
        raise InputError(
            f"{name}: {repository} has no revision {revision}; give a commit, tag or branch that it has."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise InputError(
            f"{name}: {where} is not in the local cache and the Hub cannot be reached; connect to the network or "
            f"download it first."
        ) from error
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(
            f"{name}: {where} cannot be fetched from the Hub ({first_line(error)}); check its id and revision."
        ) from error


def tokenizer_hash(checkpoint: Checkpoint) -> str:
    """SHA-256 over the tokenizer's files, in hex. InputError if there is none."""
    files = [checkpoint.folder / name for name in TOKENIZER_FILES if (checkpoint.folder / name).is_file()]
    if not files:
        raise InputError(f"Checkpoint {checkpoint.name}: {checkpoint.folder} has no tokenizer; save one beside its weights.")
    return hash_files(*files)
