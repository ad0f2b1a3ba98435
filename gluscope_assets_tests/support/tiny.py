"""A tiny study: random Llama checkpoints, a tokenizer trained on the spot, a corpus of a few files.

What several tests need to make their own input lies here; fixtures are in `conftest.py`.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LAYERS = 2
WIDTH = 12
VOCABULARY = 300
TEXTS = {
    "one.txt": "The quick brown fox jumps over the lazy dog. " * 6,
    "two.md": "# A heading\n\nSome prose with `code` and a list:\n\n- first\n- second\n" * 4,
    "three.py": 'def add(first, second):\n    """Add two numbers."""\n    return first + second\n' * 5,
    "four.txt": "Größe, naïve, 日本語, 🙂 and </script><img src=x onerror=alert(1)>.\n" * 5,
    "five.txt": "a",
}


def write_corpus(folder: Path, texts: Mapping[str, str] = TEXTS) -> Path:
    """A folder of text files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def write_tokenizer(folder: Path, vocabulary: int = VOCABULARY) -> Path:
    """A byte-level BPE tokenizer that puts `<s>` before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS.values(), trainer)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    return folder


def write_checkpoint(folder: Path, seed: int, layers: int = LAYERS, vocabulary: int = VOCABULARY) -> Path:
    """A random Llama model with its tokenizer."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return write_tokenizer(folder)


def study_content(checkpoints: Sequence[str] = ("first", "second")) -> dict[str, Any]:
    """The content of a valid study file beside `corpus/` and the checkpoints' folders."""
    return {
        "name": "tiny",
        "title": "A tiny study",
        "model": {
            "name": "tiny-llama",
            "layers": LAYERS,
            "checkpoints": [{"name": name, "path": name} for name in checkpoints],
        },
        "corpus": {"source": "folder", "path": "corpus", "text_tokens": 32, "pack_tokens": 64, "shard_packs": 4},
        "collection": {"examples": 3, "window_before": 6, "window_after": 3, "sample_positions": 64},
        "site": {"pages": [{"checkpoints": "last", "neurons": "all"}, {"checkpoints": "all", "neurons": 2}]},
    }


def write_study(file: Path, content: Mapping[str, Any]) -> Path:
    """A study file."""
    file.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
    return file


def write_tiny(folder: Path, checkpoints: Path) -> Path:
    """The tiny study in `folder`, with copies of the checkpoints in `checkpoints`."""
    write_corpus(folder / "corpus")
    for name in ("first", "second"):
        shutil.copytree(checkpoints / name, folder / name)
    return write_study(folder / "tiny.yaml", study_content())
