"""Study files: what a person may write, and the one sentence that follows a mistake. Nothing is left behind."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from gluscope_assets.core.errors import InputError
from gluscope_assets.study.study import STUDIES_VARIABLE, find_studies, load_study
from gluscope_assets_tests.conftest import Workplace
from gluscope_assets_tests.support.tiny import study_content, write_study, write_tokenizer


def altered(**fields: Any) -> dict[str, Any]:
    return {**study_content(), **fields}


def pages(**selection: Any) -> dict[str, Any]:
    """A study with one selection of pages."""
    return altered(site={"pages": [{"checkpoints": "all", "neurons": "all", **selection}]})


def test_relative_paths_start_at_the_study_file(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path / "tiny.yaml", altered(publish={"folder": "public"})))
    assert study.corpus.path == tmp_path / "corpus"
    assert study.model.checkpoints[0].path == tmp_path / "first"
    assert study.publish.folder == tmp_path / "public"


def test_named_studies_are_found_beside_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path / "tiny.yaml", study_content())
    for place in (tmp_path, tmp_path / "tiny.yaml"):
        monkeypatch.setenv(STUDIES_VARIABLE, str(place))
        assert set(find_studies()) == {"demo", "tiny"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (altered(colection={}), "unknown field colection; did you mean collection?"),
        (altered(collection={"exmples": 3}), "unknown field collection.exmples; did you mean examples?"),
        (altered(collection={"examples": 0}), "collection.examples: Input should be greater than or equal to 1"),
        (altered(corpus={"source": "folder"}), "corpus: path must name the folder or file"),
        (altered(corpus={"source": "web"}), "corpus.source: Input should be"),
        (altered(site={"pages": [{"checkpoints": ["fifth"], "neurons": 1}]}), "site.pages names the checkpoint fifth"),
        (pages(layers=[0, 2]), "site.pages names layer 2, and the study has only 0, 1."),
        (pages(layers="some"), "site.pages.0.layers: "),
        (pages(neurons="some"), "site.pages.0.neurons: Input should be 'all'."),
        (pages(neurons=0), "site.pages.0.neurons: Input should be greater than or equal to 1."),
        (pages(neurons=[]), "site.pages.0.neurons: "),
        (pages(neurons=[3, -1]), "site.pages.0.neurons.1: Input should be greater than or equal to 0."),
        (pages(neurons=2.5), "site.pages.0.neurons: write all, a number, a list of neurons, or {top: 50, by: STATISTIC}."),
        (pages(neurons={"top": 5}), "site.pages.0.neurons.by is missing; add it."),
        (pages(neurons={"top": 0, "by": "routed"}), "site.pages.0.neurons.top: Input should be greater than or equal to 1."),
        (pages(neurons={"top": 5, "bye": "routed"}), "unknown field site.pages.0.neurons.bye; did you mean by?"),
        (
            pages(neurons={"top": 5, "by": "gate_mean"}),
            "site.pages ranks by gate_mean, which is no statistic; choose one such as gate+_in+_frequency, "
            "gate-_in+_post_largest or cos_in_out.",
        ),
        (pages(neurons={"top": 5, "by": "class"}), "site.pages ranks by class, which is no statistic"),
        (altered(name="With Spaces"), "name: String should match"),
        ({key: value for key, value in study_content().items() if key != "model"}, "model is missing; add it"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_file_and_field(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    file = write_study(tmp_path / "tiny.yaml", content)
    with pytest.raises(InputError) as raised:
        load_study(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"), [(b"name: [", "is not YAML"), (b"- a", "holds no fields"), (b"\xff\xfe\x00", "is not")]
)
def test_a_file_that_is_no_study_is_one_sentence(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "tiny.yaml").write_bytes(text)
    with pytest.raises(InputError, match=message):
        load_study(tmp_path / "tiny.yaml")


def gpt2(folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=8, n_layer=2, n_head=2)).save_pretrained(folder / "second")


def no_corpus(folder: Path) -> None:
    shutil.rmtree(folder / "corpus")


def empty_corpus(folder: Path) -> None:
    for path in (folder / "corpus").iterdir():
        path.write_text("")


def broken_text(folder: Path) -> None:
    (folder / "corpus" / "two.md").write_bytes(b"fine until \xff here")


def another_layer_count(folder: Path) -> None:
    content = study_content()
    content["model"]["layers"] = 3
    write_study(folder / "tiny.yaml", content)


def truncated_weights(folder: Path) -> None:
    path = folder / "second" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:3000])


def broken_tokenizer(folder: Path) -> None:
    (folder / "first" / "tokenizer.json").write_text("{")


def larger_tokenizer(folder: Path) -> None:
    for name in ("first", "second"):
        write_tokenizer(folder / name, vocabulary=310)


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (no_corpus, "corpus"),
        (empty_corpus, "corpus"),
        (broken_text, "two.md"),
        (gpt2, "GPT2Model has no gated MLP"),
        (another_layer_count, "has gated MLPs in 2 layers and the study says 3"),
        (larger_tokenizer, "vocabulary"),
        (truncated_weights, "model.safetensors is damaged"),
        (broken_tokenizer, "the tokenizer in"),
    ],
)
def test_bad_input_ends_a_build_with_one_sentence_and_no_files(
    fresh: Workplace, capsys: pytest.CaptureFixture[str], mistake: Any, named: str
) -> None:
    mistake(fresh.file.parent)
    assert fresh.build() == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("gluscope: ")
    assert named in error
    assert not [name for name in fresh.files() if name.startswith("tiny/")]


def test_an_unknown_field_ends_a_build_with_one_sentence(fresh: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    fresh.file.write_text(fresh.file.read_text() + yaml.safe_dump({"sight": {}}))
    assert fresh.build() == 2
    assert capsys.readouterr().err.strip() == f"gluscope: {fresh.file}: unknown field sight; did you mean site?"
    assert not fresh.home.exists()
