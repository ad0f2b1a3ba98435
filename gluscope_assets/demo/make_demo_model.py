"""Make the demo model: train a tokenizer and a small SwiGLU language model on the running Python's standard library.

What belongs here: everything between the standard library's text and the checkpoints in this folder. What does not:
readers of text (``core/documents.py``) and anything the pipeline runs. Nothing is downloaded.

Run by ``make demo-model``. It stops and resumes: started again with the same options, it goes on from the last state.
A batch depends on the seed and the step alone, so a resumed run sees the same batches as an unbroken one.
"""

from __future__ import annotations

import argparse
import bisect
import copy
import hashlib
import json
import math
import os
import platform
import tempfile
import time
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from gluscope_assets.core.corpus.documents import TEST_FOLDERS, Document, standard_library, standard_library_files

SEED = 20240
BOS = "<s>"
BOS_ID = 0
VOCABULARY_SIZE = 2048
CONTEXT = 256
ROWS_PER_STEP = 16
CYCLES = (5_600, 14_000)
"""The steps at which the learning rate reaches zero. It starts again at its peak after each but the last."""

EARLY_CHECKPOINTS = (100, 500, 2500)
LEARNING_RATE = 4e-3
WARMUP_STEPS = 200
DECAY_FRACTION = 0.35
WEIGHT_DECAY = 0.1
CLIP_NORM = 1.0
LIBRARY_REPEATS = 2
"""How often an epoch reads the library proper, against once for its tests, which are twice as much text."""

STATE_EVERY = 250
REPORT_EVERY = 250
PROMPT = "def __init__(self,"  # without the space, which belongs to the next token
LOW_TEMPERATURE = 0.5

# Identifiers with at most one leading space, single digits, punctuation, line ends, and whole runs of spaces: an
# indentation is one token, and the word after it is the same token as at the start of a line.
WORD_PATTERN = r" ?[\p{L}_]+|\p{N}| ?[^\s\p{L}\p{N}_]+|[\r\n]+| {2,}|\s"

IGNORED = -100


Facts = dict[str, Any]
"""What a JSON object holds."""

TokenIds = NDArray[numpy.uint16]

README = """\
# The demo model

A small language model with the Llama architecture, made by this project so that everything runs without a download:
4 layers of 448 SwiGLU neurons, hidden size 160, 5 attention heads, 2,048 byte-level BPE tokens, tied embeddings, 1.6
million parameters. `checkpoints/` holds it at these points of its training, as fp16 weights that transformers loads, except
at the ends of cycles before the last{cycle_ends}:

| step | tokens seen | training loss | validation loss | bits per byte |
|---:|---:|---:|---:|---:|
{table}

Losses are nats a token. The training loss is the mean over the last 100 steps (over all, if there were fewer); the
validation loss is taken over held-out documents of the library, cut as the pipeline cuts texts: BOS and up to 255
tokens. `checkpoints/training.json` holds the same table and names the held-out documents.

## How it was made

`make demo-model` runs `make_demo_model.py`, which downloads nothing and resumes when it was stopped.

- Data: the standard library of Python {python}: source, topics of `help()` and docstrings of C modules, as
  `core/documents.py` reads them ({library_documents:,} documents, {library_bytes:,} bytes, {library_tokens:,} tokens),
  each seen twice an epoch; and once an epoch the library's own tests ({test_documents:,} files, {test_bytes:,} bytes,
  {test_tokens:,} tokens), which are not part of the demo corpus. About one document in 40 is held out, by a hash of
  its name.
- Tokenizer: byte-level BPE trained on the library without its tests. A run of spaces is one token, digits are single,
  BOS (`<s>`, also the EOS) comes first.
- Training: context 256, every row starts with BOS, {tokens_per_step:,} tokens a step; AdamW with weight decay 0.1,
  gradients clipped to norm 1; learning rate up to {learning_rate} in 200 steps of warm-up, constant, then linear to zero over
  the last 35 % of the steps, in each of {cycle_count} cycles; float32, seed {seed}, {minutes} minutes on two shared CPU cores.

Another Python version has another standard library and so gives another model. Another machine, or
the option `--compile` (used for the shipped checkpoints), gives one that differs by rounding.

## What it writes

It knows how Python looks and little of what Python means, and soon repeats itself: that is what its size allows. What
the last checkpoint makes of `def __init__(self,`, greedily:

```text
{greedy}
```

and at temperature 0.5 (not picked from several):

```text
{sampled}
```

## Licence

The texts are part of Python, under the PSF License Agreement. The weights are under the MIT licence, as this project.
"""


def is_held_out(document: Document) -> bool:
    """Whether a document is kept for validation: one in 40, by a hash of its name."""
    return hashlib.sha256(document.name.encode()).digest()[0] % 40 == 0


def library_tests() -> Iterator[Document]:
    """Yield the standard library's own tests: more Python to train on, though no part of the demo corpus."""
    for name, path in standard_library_files():
        if TEST_FOLDERS.intersection(name.split("/")):
            try:
                with tokenize.open(path) as file:
                    text = file.read()
                    text.encode()
            except (SyntaxError, UnicodeError):
                continue  # some tests are files that must not decode
            yield Document(name, text)


def byte_count(documents: Sequence[Document]) -> int:
    """UTF-8 bytes of all texts."""
    return sum(len(document.text.encode()) for document in documents)


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that puts BOS before every text and loses no byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY_SIZE,
            special_tokens=[BOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,  # the next document's BOS ends a document
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]) -> list[TokenIds]:
    """The token ids of each document, without BOS."""
    texts = [document.text for document in documents]
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return [numpy.asarray(encoding.ids, dtype=numpy.uint16) for encoding in encodings]


def new_model() -> LlamaForCausalLM:
    """The untrained model."""
    torch.manual_seed(SEED)
    configuration = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=512,
        hidden_act="silu",
        initializer_range=0.04,
        tie_word_embeddings=True,
        bos_token_id=BOS_ID,
        eos_token_id=BOS_ID,
    )
    return LlamaForCausalLM(configuration)


class Batches:
    """The training batches: for each step, 16 rows of 256 inputs and 256 targets.

    An epoch joins the documents, each after a BOS, in a new order, and cuts them at a new offset into rows of targets.
    The inputs of every row start with BOS, as the texts of a corpus do, even in the middle of a document.
    """

    def __init__(self, documents: Sequence[TokenIds]) -> None:
        self.documents = [numpy.concatenate(([BOS_ID], tokens)).astype(numpy.uint16) for tokens in documents]
        self.rows = (sum(map(len, self.documents)) - CONTEXT) // CONTEXT
        self.epoch = -1

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of a step."""
        indices = range(step * ROWS_PER_STEP, (step + 1) * ROWS_PER_STEP)
        targets = torch.from_numpy(numpy.stack([self._row(index) for index in indices]).astype(numpy.int64))
        return after_bos(targets), targets

    def _row(self, index: int) -> TokenIds:
        epoch, row = divmod(index, self.rows)
        if epoch != self.epoch:
            self._begin(epoch)
        start = self.offset + self.row_order[row] * CONTEXT
        return self.stream[start : start + CONTEXT]

    def _begin(self, epoch: int) -> None:
        random = numpy.random.default_rng([SEED, epoch])
        self.stream = numpy.concatenate([self.documents[index] for index in random.permutation(len(self.documents))])
        self.offset = int(random.integers(CONTEXT))
        self.row_order = random.permutation(self.rows)
        self.epoch = epoch


def after_bos(targets: torch.Tensor) -> torch.Tensor:
    """The inputs that predict the targets: BOS, then every target but the last."""
    inputs = targets.roll(1, dims=1)
    inputs[:, 0] = BOS_ID
    return inputs.clamp(min=0)


def validation_rows(documents: Sequence[TokenIds]) -> torch.Tensor:
    """The documents cut as the pipeline cuts texts, into rows of 255 tokens; the rest of a last row is ignored."""
    width = CONTEXT - 1
    runs = [tokens[start : start + width] for tokens in documents for start in range(0, len(tokens), width)]
    rows = numpy.full((len(runs), width), IGNORED, dtype=numpy.int64)
    for row, run in zip(rows, runs, strict=True):
        row[: len(run)] = run
    return torch.from_numpy(rows)


def validation_loss(loss_of: Callable[..., torch.Tensor], targets: torch.Tensor) -> float:
    """Nats a token over all rows."""
    total = 0.0
    with torch.no_grad():
        for rows in torch.split(targets, ROWS_PER_STEP):
            total += float(loss_of(after_bos(rows), rows, reduction="sum"))
    return total / int((targets != IGNORED).sum())


def learning_rate(step: int, cycles: Sequence[int], peak: float) -> float:
    """In each cycle linear warm-up, constant, linear decay to zero: warm restarts (Loshchilov & Hutter 2017)."""
    cycle = bisect.bisect(cycles, step)
    start, end = (0, *cycles)[cycle], cycles[cycle]
    warmup = min(WARMUP_STEPS, (end - start) // 10)
    decay = max(1, round((end - start) * DECAY_FRACTION))
    return peak * min(1.0, (step - start + 1) / max(1, warmup), (end - step) / decay)


def new_optimizer(model: LlamaForCausalLM) -> torch.optim.AdamW:
    """AdamW; norms do not decay."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    norms = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)


def save_state(path: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW, progress: Facts) -> None:
    """Write all that a stopped run needs, in one file that is whole or absent."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach()
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[f"{key}.{name}"] = optimizer.state[parameter][key]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    save_file(tensors, temporary, metadata={"progress": json.dumps(progress)})
    os.replace(temporary, path)


def load_state(path: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW) -> Facts:
    """Read what :func:`save_state` wrote and return the progress."""
    with safe_open(path, framework="pt") as file:
        progress: Facts = json.loads(file.metadata()["progress"])
        for name, parameter in model.named_parameters():
            parameter.data.copy_(file.get_tensor(f"weight.{name}"))
            optimizer.state[parameter] = {
                "step": torch.tensor(float(progress["step"])),
                "exp_avg": file.get_tensor(f"exp_avg.{name}"),
                "exp_avg_sq": file.get_tensor(f"exp_avg_sq.{name}"),
            }
    return progress


def save_checkpoint(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save fp16 weights, configuration and tokenizer in a folder that transformers reads."""
    half: LlamaForCausalLM = copy.deepcopy(model).half()
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # transformers 5 writes a class name here that transformers 4 does not know; both know this one
    configuration = folder / "tokenizer_config.json"
    fields = {**json.loads(configuration.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}
    configuration.write_text(json.dumps(fields, indent=2) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors makes its files readable by their owner alone


def continuation(checkpoint: Path, temperature: float) -> str:
    """The prompt and what a checkpoint writes after it; temperature 0 is greedy."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint)
    model.float()
    generator = torch.Generator().manual_seed(SEED)
    tokens = tokenizer(PROMPT)["input_ids"]
    with torch.inference_mode():
        for _ in range(100):
            logits = model(input_ids=torch.tensor([tokens])).logits[0, -1]
            if temperature == 0:
                token = int(logits.argmax())
            else:
                token = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
            if token == BOS_ID:
                break
            tokens.append(token)
    return str(tokenizer.decode(tokens[1:]))


@dataclass(frozen=True)
class Data:
    """All that a run reads: the tokenizer, what it trains on, what is held out, and the facts about them."""

    tokenizer: PreTrainedTokenizerFast
    batches: Batches
    held_out_rows: torch.Tensor
    facts: Facts


def read_data(peak_learning_rate: float, documents: int | None = None) -> Data:
    """Read the standard library, or so many of its documents, train the tokenizer on it, and encode everything."""
    library = list(islice(standard_library(), documents))
    seen_library = [document for document in library if not is_held_out(document)]
    seen_tests = [document for document in islice(library_tests(), documents) if not is_held_out(document)]
    held_out = [document for document in library if is_held_out(document)]
    tokenizer = train_tokenizer([document.text for document in seen_library])
    library_tokens, test_tokens = encode(tokenizer, seen_library), encode(tokenizer, seen_tests)
    held_out_rows = validation_rows(encode(tokenizer, held_out))
    facts = {
        "python": platform.python_version(),
        "seed": SEED,
        "library_documents": len(seen_library),
        "library_bytes": byte_count(seen_library),
        "library_tokens": sum(map(len, library_tokens)),
        "test_documents": len(seen_tests),
        "test_bytes": byte_count(seen_tests),
        "test_tokens": sum(map(len, test_tokens)),
        "held_out_documents": [document.name for document in held_out],
        "held_out_bytes": byte_count(held_out),
        "held_out_tokens": int((held_out_rows != IGNORED).sum()),
        "tokens_per_step": ROWS_PER_STEP * CONTEXT,
        "learning_rate": peak_learning_rate,
    }
    return Data(tokenizer, Batches(library_tokens * LIBRARY_REPEATS + test_tokens), held_out_rows, facts)


def train(
    out: Path,
    state: Path,
    cycles: Sequence[int],
    peak_learning_rate: float = LEARNING_RATE,
    compiled: bool = False,
    documents: int | None = None,
) -> None:
    """Train from the last state on; write checkpoints, their table and the README below ``out``."""
    data = read_data(peak_learning_rate, documents)
    print(json.dumps(data.facts), flush=True)
    model = new_model()
    optimizer = new_optimizer(model)

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)

    training_loss_of = torch.compile(loss_of) if compiled else loss_of
    state_file = state / "state.safetensors"
    progress: Facts = {"step": 0, "seconds": 0.0, "losses": [], "table": [], "facts": data.facts}
    if state_file.exists():
        progress = load_state(state_file, model, optimizer)
        if progress["facts"] != data.facts:
            raise SystemExit(f"{state_file} belongs to a run with other options or another Python; delete {state}.")
        print(f"resumed at step {progress['step']}", flush=True)

    steps = cycles[-1]
    checkpoints = out / "checkpoints"
    checkpoint_steps = {*(step for step in EARLY_CHECKPOINTS if step < steps), steps}
    start = time.monotonic() - progress["seconds"]
    for step in range(progress["step"], steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, cycles, peak_learning_rate)
        loss = training_loss_of(*data.batches(step))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        done = step + 1
        losses = [*progress["losses"][-99:], loss.item()]
        progress |= {"step": done, "losses": losses, "seconds": time.monotonic() - start}
        if done in checkpoint_steps | set(cycles) or done % REPORT_EVERY == 0:
            row = measured(done, losses, validation_loss(loss_of, data.held_out_rows), data.facts)
            print(json.dumps(row), f"{row['tokens_seen'] / progress['seconds']:.0f} tokens/s", flush=True)
            if done in checkpoint_steps:
                save_checkpoint(checkpoints / f"step-{done:05}", model, data.tokenizer)
            if done in checkpoint_steps | set(cycles):
                progress["table"].append(row)
        if done % STATE_EVERY == 0 or done == steps:
            save_state(state_file, model, optimizer, progress)

    record = {**data.facts, "seconds": round(progress["seconds"]), "checkpoints": progress["table"]}
    (checkpoints / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    samples = [continuation(checkpoints / f"step-{steps:05}", temperature) for temperature in (0.0, LOW_TEMPERATURE)]
    (out / "README.md").write_text(readme(record, cycles, samples))


def measured(step: int, losses: Sequence[float], held_out_loss: float, facts: Facts) -> Facts:
    """One line of the table of checkpoints. Losses are nats a token, the training loss a mean over the last steps."""
    nats_per_byte = held_out_loss * facts["held_out_tokens"] / facts["held_out_bytes"]
    return {
        "step": step,
        "tokens_seen": step * ROWS_PER_STEP * CONTEXT,
        "train_loss": round(sum(losses) / len(losses), 4),
        "validation_loss": round(held_out_loss, 4),
        "bits_per_byte": round(nats_per_byte / math.log(2), 4),
    }


def readme(record: Facts, cycles: Sequence[int], samples: Sequence[str]) -> str:
    """The README beside the checkpoints, from ``training.json``'s content and the last checkpoint's continuations."""
    lines = [
        f"| {row['step']:,} | {row['tokens_seen']:,} | {row['train_loss']:.3f} | {row['validation_loss']:.3f} "
        f"| {row['bits_per_byte']:.3f} |"
        for row in record["checkpoints"]
    ]
    greedy, sampled = samples
    return README.format(
        table="\n".join(lines),
        minutes=round(record["seconds"] / 60),
        cycle_count=len(cycles),
        cycle_ends=f" ({', '.join(f'step {step:,}' for step in cycles[:-1])})" if cycles[1:] else "",
        greedy=greedy,
        sampled=sampled,
        **record,
    )


def main() -> None:
    """Read the options and train."""
    default_state = Path(tempfile.gettempdir()) / "gluscope-demo-model"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cycles",
        type=int,
        nargs="+",
        default=CYCLES,
        help="steps at which the learning rate is zero; the last ends the run (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="receives checkpoints/ and README.md")
    parser.add_argument("--state", type=Path, default=default_state, help="where a stopped run left its state")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="at its peak (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads that PyTorch uses (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="train with torch.compile; needs a C++ compiler")
    parser.add_argument("--documents", type=int, help="train on the first so many alone (default: on all)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options.out, options.state, options.cycles, options.learning_rate, options.compile, options.documents)


if __name__ == "__main__":
    main()
