"""Every example of the README, run: the demo is built once, with `make demo`, and looked at.

Commands that need no demo are run in `test_commands`.
"""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
import yaml

from gluscope_assets.core.corpus.decoder import TokenDecoder
from gluscope_assets.core.corpus.texts import TokenizedCorpus
from gluscope_assets.core.quadrants import oriented_quadrant
from gluscope_assets.study.study import load_study
from gluscope_assets_tests.site.conftest import needs_chromium

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

OWN_STUDY = [
    "gluscope inspect checkpoints/step1000",
    "export GLUSCOPE_STUDIES=mine.yaml",
    "gluscope studies",
    "gluscope build --study mine",
    "gluscope build --study mine --checkpoint step1000 --layers 0-1",
    "gluscope publish --study mine",
    "gluscope export --study mine --license mit dataset exported",
    "gluscope export --study mine paper neuron-activations.parquet",
]
BY_HAND = ["make bench", "make numerics", "make soak"]
"""Benchmarks, which take minutes: their commands are run with little to do."""

MAKE = ["make demo", "make test", "make serve", "make ui", "make lint", *BY_HAND, "make screenshots", "make demo-model"]


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def make(target: str, home: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """`make TARGET` in the checkout, with its own home folder."""
    environment = {**os.environ, "GLUSCOPE_HOME": str(home)}
    command = ["make", "--no-print-directory", *flags, target]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder that `make demo` filled."""
    home = tmp_path_factory.mktemp("demo") / ".gluscope"
    done = make("demo", home)
    assert done.returncode == 0, done.stderr
    assert f"The site is at {home}/demo/site/index.html" in done.stdout
    assert "gluscope serve --study demo" in done.stdout
    assert re.search(r"activations: [\d,]+ of [\d,]+ tokens, [\d,]+ tokens/s, \d+:\d\d (left|in all)", done.stderr)
    return home


def test_every_command_is_run_by_a_test() -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    assert sorted(commands) == sorted([*MAKE, *OWN_STUDY])


def test_a_second_demo_does_nothing(demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (demo / "demo").rglob("*")}
    done = make("demo", demo)
    assert "everything is fresh, nothing to do" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (demo / "demo").rglob("*")} == before


def test_the_demo_has_its_checkpoints_and_keeps_its_size(demo: Path) -> None:
    study = load_study(ROOT / "gluscope_assets" / "study" / "demo.yaml")
    names = [checkpoint.name for checkpoint in study.model.checkpoints]
    site = demo / "demo" / "site"
    assert len(names) >= 4
    assert sorted(path.name.rpartition("-")[0] for path in site.iterdir() if re.match(r"step-", path.name)) == names
    assert len(list(site.glob(f"{names[-1]}-*/*/[0-9]*.html"))) == 4 * 448
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 300e6
    shipped = sum(path.stat().st_size for path in (ROOT / "gluscope_assets" / "demo").rglob("*") if path.is_file())
    assert shipped <= 15e6


def test_the_corpus_is_documentation_and_source_and_knows_its_documents(demo: Path) -> None:
    corpus = TokenizedCorpus.open(demo / "demo" / "corpus" / "texts.parquet")
    names = {corpus.document_of(text) for text in range(corpus.n_texts)}
    assert any(name.startswith("topics/") for name in names)
    assert any(name.endswith(".py") for name in names)


def test_the_named_neurons_do_what_is_said_of_them(demo: Path) -> None:
    """Most texts that drive a neuron named in the README hardest peak at the token that it names."""
    rows = re.findall(r"\[layer (\d), neuron (\d+)\]\(\.gluscope/demo/(\S+)\) \| (gate. in.) \| ([^|]+) \|", README)
    assert len(rows) >= 6
    corpus = TokenizedCorpus.open(demo / "demo" / "corpus" / "texts.parquet")
    tokens = {271: '"""', 410: ".", 284: "(", 446: ":", 297: "    ", 346: " for", 190: "from", 211: "'", 365: " "}
    for layer, neuron, page, quadrant, _ in rows:
        assert (demo / "demo" / page).is_file(), page
        key = page.split("/")[1]
        row = pl.col("neuron") == int(neuron)
        weights = pl.read_parquet(demo / "demo" / "weights" / key / f"layer-0{layer}.parquet").row(by_predicate=row, named=True)
        raw = oriented_quadrant(quadrant.replace(" ", "_").replace("−", "-"), weights["orientation"])
        examples = pl.read_parquet(demo / "demo" / "aggregates" / key / f"layer-0{layer}" / "examples.parquet").filter(row)
        decoder = TokenDecoder.from_folder(ROOT / "gluscope_assets" / "demo" / "checkpoints" / key.rpartition("-")[0])
        peaks = [int(corpus.tokens_of(entry["text"])[entry["position"]]) for entry in examples[f"{raw}_post"][0].to_list()]
        hits = sum(decoder.piece(peak) == tokens[int(neuron)] for peak in peaks)
        assert hits >= 10, (neuron, [decoder.piece(peak) for peak in peaks])


def test_the_demo_model_writes_python() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = sorted((ROOT / "gluscope_assets" / "demo" / "checkpoints").glob("step-*"))[-1]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    prompt = tokenizer("def __init__(self,", return_tensors="pt")
    written = tokenizer.decode(model.generate(**prompt, max_new_tokens=16, do_sample=False)[0], skip_special_tokens=True)
    assert re.match(r"def __init__\(self, [\w*, =]+\):\n +self\.\w+ = ", written), written


def test_the_table_of_training_improves() -> None:
    table = json.loads((ROOT / "gluscope_assets" / "demo" / "checkpoints" / "training.json").read_text())
    rows = next(value for value in table.values() if isinstance(value, list) and value and "validation_loss" in value[0])
    losses = [row["validation_loss"] for row in rows]
    assert len(losses) >= 4
    assert losses == sorted(losses, reverse=True)


def test_the_polars_examples_run_on_the_demo(demo: Path, tmp_path: Path) -> None:
    (tmp_path / ".gluscope").symlink_to(demo)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks("python"))], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("shape: (4, 2)") == 2
    said = [
        float(number.replace("−", "-")) for number in re.findall(r"−0\.\d\d", README.split("The demo has ")[1].split(":")[0])
    ]
    assert said == [round(float(number), 2) for number in re.findall(r"│ \d +┆ (-0\.\d+) +│", done.stdout)]
    assert "shape: (16, 6)" in done.stdout
    assert list((tmp_path / "exports" / "neuronpedia").rglob("batch-*.jsonl.gz"))


def test_parts_of_a_study_are_valid(tmp_path: Path) -> None:
    whole, *parts = (yaml.safe_load(block) for block in blocks("yaml"))
    assert [list(part) for part in parts] == [["model"], ["publish"]]
    for part in parts:
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**whole, **part}))
        study = load_study(tmp_path / "mine.yaml")
        assert study.model.discover or study.publish.folder
    # What is commented out is one of the other places.
    for line in re.findall(r"^  # ((?:git|bucket|hugging_face): \{.*?\})", README, re.MULTILINE):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**whole, "publish": yaml.safe_load(line)}))
        assert load_study(tmp_path / "mine.yaml").publish.folder is None


@contextmanager
def started(target: str, home: Path) -> Iterator[None]:
    """`make TARGET` running in the background, with all that it starts ended afterwards."""
    environment = {**os.environ, "GLUSCOPE_HOME": str(home)}
    process = subprocess.Popen(
        ["make", target],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def fetched(address: str, seconds: float = 120) -> str:
    """What an address answers, once it does."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def test_make_serve_serves_the_site(demo: Path) -> None:
    with started("serve", demo):
        assert "GLUScope" in fetched("http://127.0.0.1:8700/index.html")


def test_make_ui_shows_the_runs_of_the_demo(demo: Path) -> None:
    query = "{assetsOrError{...on AssetConnection{nodes{key{path} assetMaterializations(limit:1){runId}}}}}"
    with started("ui", demo):
        fetched("http://127.0.0.1:3000/server_info")
        answer = json.loads(fetched(f"http://127.0.0.1:3000/graphql?query={urllib.parse.quote(query)}"))
    assets = {tuple(node["key"]["path"]): node["assetMaterializations"] for node in answer["data"]["assetsOrError"]["nodes"]}
    assert assets["demo", "site"]
    assert assets["demo", "neuron_pages"]


@needs_chromium
def test_every_feature_of_the_demos_site_works(demo: Path) -> None:
    tour = [sys.executable, "-m", "gluscope_assets_tests.site.tour", str(demo / "demo")]
    done = subprocess.run(tour, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Everything is as the tables say.\n"


def test_make_screenshots_takes_pictures_of_the_demo(demo: Path, tmp_path: Path) -> None:
    command = make("screenshots", demo, "-n").stdout.strip().splitlines()[-1]
    environment = {**os.environ, "GLUSCOPE_HOME": str(demo)}
    done = subprocess.run(
        [*command.split(), str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    pictures = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name: struct.unpack(">II", picture[16:24]) for name, picture in pictures.items()} == {
        f"{name}-{width}x{height}-{scheme}.png": (width, height)
        for name in ("neuron", "layer", "overview", "explorer")
        for width, height in ((1280, 800), (390, 844))
        for scheme in ("light", "dark")
    }
    assert len(set(pictures.values())) == len(pictures)
    assert done.stdout.split() == [str(tmp_path / name) for name in sorted(pictures, key=done.stdout.index)]


def test_the_picture_is_there() -> None:
    for picture in re.findall(r"!\[[^]]+\]\(([^)]+)\)", README):
        assert (ROOT / picture).stat().st_size > 10_000
    assert shutil.which("make")
