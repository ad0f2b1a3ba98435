"""Rendering with processes: the same bytes as in one, one sentence for an error, and nothing that nobody selected."""

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import read_provenance, write_parquet
from gluscope_assets.core.options import PageSelection
from gluscope_assets.core.pages import rendering
from gluscope_assets.core.pages.layer_source import LayerSource
from gluscope_assets.core.pages.rendering import RenderReport, render_layers
from gluscope_assets_tests.support.layer_sources import KEY, sources_of, write_inputs
from gluscope_assets_tests.support.synthetic import Study


def contents(site: Path) -> dict[str, bytes]:
    return {str(path.relative_to(site)): path.read_bytes() for path in sorted(site.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = Study(tmp_path_factory.mktemp("study"), width=10, repeats=2)
    write_inputs(study)
    return study


@pytest.fixture
def always_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "FEWEST_FOR_PROCESSES", 1)


def render(site: Path, sources: list[LayerSource], processes: int) -> list[RenderReport]:
    return list(render_layers(site, sources, processes=processes))


@pytest.mark.usefixtures("always_processes")
def test_two_processes_write_what_one_writes(study: Study, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    sources = sources_of(study)
    one = render(tmp_path / "one", sources, 1)
    two = list(render_layers(tmp_path / "two", sources, lambda done, total: progress.append((done, total)), processes=2))
    assert one == two
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [report.pages for report in one] == [10, 10]
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert progress[-1] == (20, 20)
    assert {total for _, total in progress} == {20}


def test_reports_count_what_lies_there(study: Study, tmp_path: Path) -> None:
    for layer, report in enumerate(render(tmp_path, sources_of(study), 1)):
        files = {path: path.stat().st_size for path in (tmp_path / KEY / f"{layer:02d}").iterdir()}
        sizes = [sum(files[path.with_suffix(kind)] for kind in (".html", ".js")) for path in files if path.stem.isdigit()]
        assert (report.bytes, report.largest_bytes) == (sum(files.values()), max(sizes))
        assert report.samples == tuple(f"{KEY}/{layer:02d}/{neuron}.html" for neuron in (0, 5, 9))


@pytest.mark.usefixtures("always_processes")
@pytest.mark.parametrize("processes", [1, 2])
def test_only_selected_pages_are_there_and_link_each_other(study: Study, tmp_path: Path, processes: int) -> None:
    render(tmp_path, sources_of(study), processes)
    (tmp_path / KEY / "00" / "columns").mkdir()
    (tmp_path / KEY / "00" / "columns" / "summary.js").write_text("kept")
    selection = PageSelection(checkpoints="all", layers=(0,), neurons=(2, 7, 8))
    reports = render(tmp_path, sources_of(study, selection), processes)
    assert [report.pages for report in reports] == [3, 0]
    names = {name.removeprefix(f"{KEY}/") for name in contents(tmp_path)}
    expected = {f"00/{neuron}.{kind}" for neuron in (2, 7, 8) for kind in ("html", "js")}
    assert names == expected | {"00/index.html", "00/columns/summary.js"}
    page = (tmp_path / KEY / "00" / "7.html").read_text()
    assert 'rel="prev" href="2.html"' in page
    assert 'rel="next" href="8.html"' in page


@pytest.mark.usefixtures("always_processes")
@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_one_sentence_and_leaves_whole_pages(study: Study, tmp_path: Path, processes: int) -> None:
    sources = sources_of(study)
    whole = tmp_path / "whole"
    render(whole, sources, 1)
    shorter = tmp_path / "shorter"
    for name in ("statistics", "examples", "sample", "positions"):
        table = pq.read_table(study.folder / "aggregate" / f"{name}.parquet")
        cut = table.slice(0, 7) if name == "sample" else table
        write_parquet(
            cut, shorter / f"{name}.parquet", read_provenance(study.folder / "aggregate" / f"{name}.parquet"), row_group_size=4
        )
    with pytest.raises(InputError) as raised:
        render(tmp_path / "site", [replace(source, aggregate=shorter) for source in sources], processes)
    assert "sample.parquet" in str(raised.value)
    assert "\n" not in str(raised.value)
    written = contents(tmp_path / "site")
    assert all(content == contents(whole)[name] for name, content in written.items())


@pytest.mark.usefixtures("always_processes")
def test_a_missing_table_is_one_sentence_before_anything_is_written(study: Study, tmp_path: Path) -> None:
    sources = [replace(source, corpus=tmp_path / "none.parquet") for source in sources_of(study)]
    with pytest.raises(InputError, match=r"none.parquet does not exist; run gluscope build"):
        render(tmp_path / "site", sources, 2)
    assert contents(tmp_path) == {}


def test_a_worker_imports_no_deep_learning_library_and_no_dagster() -> None:
    code = (
        "import sys, gluscope_assets.core.pages.rendering, gluscope_assets.core.serve.on_demand\n"
        "import gluscope_assets.core.serve.server\n"
        "import gluscope_assets.study.sources\n"
        "sys.exit(', '.join({'torch', 'transformers', 'dagster'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_interrupt_ends_the_workers_and_leaves_whole_pages(study: Study, tmp_path: Path) -> None:
    """The interrupt goes to all processes, as from a terminal."""
    code = (
        "import pickle, signal, sys\n"
        "from pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from gluscope_assets.core.pages import rendering\n"
        "if __name__ == '__main__':\n"
        "    rendering.FEWEST_FOR_PROCESSES = 1\n"
        "    sources = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "    for _ in range(1000):\n"
        "        list(rendering.render_layers(Path(sys.argv[2]), sources, lambda *_: print('page', flush=True), processes=2))\n"
    )
    (tmp_path / "sources").write_bytes(pickle.dumps(sources_of(study)))
    (tmp_path / "main.py").write_text(code)
    site = tmp_path / "site"
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py"), str(tmp_path / "sources"), str(site)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert run.stdout is not None
        assert run.stdout.readline() == "page\n"
        os.killpg(run.pid, signal.SIGINT)
        _, printed = run.communicate(timeout=60)
        assert printed.strip().splitlines()[-1] == "KeyboardInterrupt"
        assert printed.count("Traceback") == 1, printed
        deadline = time.monotonic() + 60
        while subprocess.run(["pgrep", "-g", str(run.pid)], capture_output=True, check=False).stdout:
            assert time.monotonic() < deadline, "a worker outlives its parent"
            time.sleep(0.1)
    finally:
        run.kill()
    assert not [path for path in site.rglob(".*") if path.is_file()]
