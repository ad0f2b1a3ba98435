"""The command line: `gluscope build | serve | ui | studies | inspect`.

`build` materializes through Dagster in this process, against the instance that `gluscope ui` shows. What is stale is
decided in `plan.py`; here it is run and told.
"""

import argparse
import fcntl
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gluscope_assets.core.errors import InputError
from gluscope_assets.core.serve.server import HOST, PORT, open_server

if TYPE_CHECKING:
    import dagster as dg

    from gluscope_assets.commands.plan import LayerRun, Plan
    from gluscope_assets.core.model.checkpoint import Checkpoint
    from gluscope_assets.core.paths import StudyFolder
    from gluscope_assets.study.study import Study

DAGSTER_YAML = """\
# Written by GLUScope when it was missing; change what you like.
telemetry:
  enabled: false
concurrency:
  pools:
    granularity: op
    # One run at a time on the GPU.
    default_limit: 1
  runs:
    # More at once want PostgreSQL: every run writes to the same SQLite files.
    max_concurrent_runs: 2
run_monitoring:
  enabled: true
  # A run that was killed must not keep the GPU.
  free_slots_after_run_end_seconds: 60
nux:
  # No newsletter dialog over the first page.
  enabled: false
"""

COMMAND_TAG = {"gluscope/command": "build"}
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for bad input, 1 for a check that failed."""
    options = _parser().parse_args(arguments)
    # Threads that spin while they wait slow a busy machine down many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The bars of other libraries would tear ours apart.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        return int(options.run(options) or 0)
    except BaseException as error:
        for cause in _causes(error):
            if isinstance(cause, InputError):
                print(f"gluscope: {cause}", file=sys.stderr)
                return 2
            # By name, because importing Dagster takes a second.
            if type(cause).__name__ == "DagsterAssetCheckFailedError":
                print(f"gluscope: {cause}", file=sys.stderr)
                return 1
            if isinstance(cause, KeyboardInterrupt) or type(cause).__name__ == "DagsterExecutionInterruptedError":
                print("\nStopped. What was finished is kept.", file=sys.stderr)
                return 130
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    # Dagster's interrupt handling can close a chain of causes to a circle.
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gluscope", description="What each neuron of a gated MLP does.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: object, description: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=description, description=description)
        added.set_defaults(run=run)
        return added

    build_parser = command("build", build, "Build what is stale of a study, up to its site.")
    serve_parser = command("serve", serve, "Serve a study's site on 127.0.0.1.")
    ui_parser = command("ui", ui, "Start the Dagster UI and its daemon over the same runs and storage.")
    publish_parser = command("publish", publish, "Publish a study's site where its publish says.")
    import_parser = command("import", import_table, "Take a table of the paper as a checkpoint's, for gluscope serve to show.")
    export_parser = command("export", export, "Write a study's tables for others to read.")
    command("studies", studies, "List the studies with their checkpoints, pages and status.")
    inspect_parser = command("inspect", inspect, "Say what gated MLPs a model has and what a study of it would cost.")
    inspect_parser.add_argument("model", help="a folder with config.json, or a Hub id")
    inspect_parser.add_argument("--revision", help="a Hub commit, tag or branch (default: the main branch)")
    inspect_parser.add_argument("--stack", choices=("encoder", "decoder"), help="which stack of a model that has both")
    inspect_parser.add_argument("--tokens", type=int, default=20_000_000, help="of the corpus (default: 20000000)")
    inspect_parser.add_argument("--write", type=Path, metavar="FILE", help="write a study file")
    for subparser in (build_parser, serve_parser, publish_parser, import_parser, export_parser):
        subparser.add_argument("--study", default="demo", help="a study's name or its YAML file (default: demo)")
    build_parser.add_argument("--checkpoint", nargs="+", metavar="NAME", help="names or keys (default: all)")
    build_parser.add_argument("--layers", metavar="LAYERS", help="such as 0,2-3 (default: all)")
    publish_parser.add_argument("--roll-back", action="store_true", help="put back what was published before, instead")
    import_parser.add_argument("table", type=Path, help="a Parquet file in the paper's schema, with raw values")
    import_parser.add_argument("--checkpoint", metavar="NAME", required=True, help="whose neurons the table is of")
    export_parser.add_argument("format", choices=("dataset", "paper"), help="a dataset with its card, or the paper's table")
    export_parser.add_argument("target", type=Path, help="the folder of the dataset, or the Parquet file")
    export_parser.add_argument("--checkpoint", metavar="NAME", help="of the paper's table, a name or key (default: the last)")
    export_parser.add_argument("--license", default="unknown", help="of the dataset, such as mit (default: unknown)")
    serve_parser.add_argument("--port", type=int, default=PORT, help="(default: 8700)")
    ui_parser.add_argument("--port", type=int, default=3000, help="(default: 3000)")
    return parser


# build


def build(options: argparse.Namespace) -> None:
    """Plan, run the plan, say where the site is."""
    from gluscope_assets.commands.plan import Planner
    from gluscope_assets.core.corpus.tokenize import source_version
    from gluscope_assets.core.model.checkpoint import check_checkpoint, resolve_checkpoint
    from gluscope_assets.core.pages.selection import check_lists
    from gluscope_assets.core.paths import StudyFolder, default_home
    from gluscope_assets.study.registry import look_for_checkpoints, with_registry
    from gluscope_assets.study.study import load_study

    study, home = _study(options.study), default_home()
    folder = StudyFolder(home / study.name)
    if study.model.discover is not None:
        given = load_study(study.file)
        look = look_for_checkpoints(given, folder)
        print(f"{study.name}: {look.sentence}")
        study = with_registry(given, folder)
    layers = _layers(options.layers, study)
    checkpoints = [resolve_checkpoint(given) for given in study.model.checkpoints]
    if not checkpoints:
        raise InputError(f"{study.file}: no checkpoint has appeared where model.discover looks; build again when one has.")
    chosen = _chosen(options.checkpoint, checkpoints, study)
    source = source_version(study.corpus)
    with _only_build(home), _instance(home) as instance:
        plan = Planner(study, folder, instance, source, checkpoints).plan(chosen, layers)
        if plan.is_empty:
            print(f"{study.name}: everything is fresh, nothing to do.")
        else:
            # Before anything is written, so that a model that does not fit leaves nothing behind.
            for checkpoint in dict.fromkeys(run.checkpoint for run in plan.layer_runs):
                shape = check_checkpoint(checkpoint, study.model.layer_numbers, study.model.stack)
                check_lists(study.site.pages, {layer: shape.neurons(layer) for layer in shape.layers})
            _retire_dead_runs(instance)
            _run_plan(study, plan, instance)
    _print_site(options.study, folder)


def _run_plan(study: "Study", plan: "Plan", instance: "dg.DagsterInstance") -> None:
    from gluscope_assets.assets.neuron_weights import checkpoint_event
    from gluscope_assets.definitions import build_defs
    from gluscope_assets.orchestration.jobs import observe_corpus_job
    from gluscope_assets.orchestration.partitions import RANGE_END_TAG, RANGE_START_TAG, checkpoint_partitions, partition_key
    from gluscope_assets.orchestration.resources import ProgressDisplay

    display = ProgressDisplay(style="bars" if sys.stderr.isatty() else "lines")
    definitions = build_defs([study], resources={"progress": display})
    job = definitions.resolve_implicit_global_asset_job_def()

    def materialize(stages: Sequence[str], tags: dict[str, str]) -> None:
        import dagster as dg

        job.execute_in_process(
            run_config=QUIET,
            instance=instance,
            asset_selection=[dg.AssetKey([study.name, stage]) for stage in stages],
            tags={**COMMAND_TAG, **tags},
        )

    if plan.new_checkpoints:
        keys = [checkpoint.key for checkpoint in plan.new_checkpoints]
        instance.add_dynamic_partitions(checkpoint_partitions(study).name or "", keys)
        for checkpoint in plan.new_checkpoints:
            instance.report_runless_asset_event(checkpoint_event(study, checkpoint))
    if plan.observe_source:
        observe = definitions.resolve_job_def(observe_corpus_job(study).name)
        observe.execute_in_process(run_config=QUIET, instance=instance, tags=COMMAND_TAG)
    if plan.corpus:
        print(f"{study.name}: tokenized_corpus")
        materialize(["tokenized_corpus"], {})
    for run in plan.layer_runs:
        print(_described(study, run), flush=True)
        ends = [partition_key(run.checkpoint.key, layer) for layer in (run.first_layer, run.last_layer)]
        materialize(run.stages, {RANGE_START_TAG: str(ends[0]), RANGE_END_TAG: str(ends[1])})
    if plan.site:
        print(f"{study.name}: site", flush=True)
        materialize(["site"], {})


def _described(study: "Study", run: "LayerRun") -> str:
    one = run.first_layer == run.last_layer
    layers = f"layer {run.first_layer}" if one else f"layers {run.first_layer}–{run.last_layer}"
    return f"{study.name}: {run.checkpoint.name}, {layers}: {', '.join(run.stages)}"


def _print_site(study: str, folder: "StudyFolder") -> None:
    index = folder.site / "index.html"
    command = "gluscope" if shutil.which("gluscope") else os.path.relpath(Path(sys.executable).with_name("gluscope"))
    print(f"\nThe site is at {index}")
    print(f"  open   {index.as_uri()}")
    print(f"  serve  {command} serve --study {study}")


@contextmanager
def _only_build(home: Path) -> Iterator[None]:
    """Hold the home folder's lock. Two builds at once would write the same files."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"Another build is running in {home}; wait for it or set $GLUSCOPE_HOME.") from error
        yield


@contextmanager
def _instance(home: Path) -> "Iterator[dg.DagsterInstance]":
    """The persistent Dagster instance of a home folder."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(_dagster_home(home))) as instance:
        yield instance


def _dagster_home(home: Path) -> Path:
    """The folder of the Dagster instance, made if it is missing."""
    folder = home / "dagster"
    if not (folder / "dagster.yaml").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dagster.yaml").write_text(DAGSTER_YAML)
    return folder


def _retire_dead_runs(instance: "dg.DagsterInstance") -> None:
    """End the runs of builds that were killed: the lock is ours, so none of them is alive, but they hold the GPU's slot."""
    import dagster as dg

    unfinished = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    for run in instance.get_runs(dg.RunsFilter(tags=COMMAND_TAG, statuses=unfinished)):
        instance.report_run_failed(run, "The build that started this run was killed.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _study(name: str) -> "Study":
    from gluscope_assets.core.paths import StudyFolder, default_home
    from gluscope_assets.study.registry import with_registry
    from gluscope_assets.study.study import STUDIES_VARIABLE, find_studies, load_study

    if name.endswith((".yaml", ".yml")):
        study = load_study(Path(name))
        # Processes started from here know the study too.
        os.environ[STUDIES_VARIABLE] = os.pathsep.join(filter(None, [os.environ.get(STUDIES_VARIABLE), str(study.file)]))
        return with_registry(study, StudyFolder(default_home() / study.name))
    found = find_studies()
    if name not in found:
        raise InputError(f"There is no study {name}; there are {', '.join(found)}, or name a YAML file.")
    return with_registry(found[name], StudyFolder(default_home() / name))


def _layers(given: str | None, study: "Study") -> list[int]:
    """The layers that `0,2-3` names."""
    all_layers = study.model.layer_numbers
    if given is None:
        return list(all_layers)
    layers: set[int] = set()
    for part in given.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise InputError(f"--layers {given} is not a list of layers; write it like 0,2-3.")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or not {first, last} <= set(all_layers):
            numbers = ", ".join(map(str, all_layers)) if isinstance(study.model.layers, tuple) else f"0 to {all_layers[-1]}"
            raise InputError(f"--layers {given} names layers that {study.name} does not have; it has {numbers}.")
        layers.update(set(range(first, last + 1)) & set(all_layers))
    return sorted(layers)


def _chosen(given: list[str] | None, checkpoints: "list[Checkpoint]", study: "Study") -> "list[Checkpoint]":
    """The checkpoints that names or keys name, in the order of training."""
    for name in given or ():
        if not any(name in (checkpoint.name, checkpoint.key) for checkpoint in checkpoints):
            names = ", ".join(checkpoint.name for checkpoint in checkpoints)
            raise InputError(f"{study.name} has no checkpoint {name}; it has {names}.")
    return [checkpoint for checkpoint in checkpoints if given is None or {checkpoint.name, checkpoint.key} & set(given)]


# inspect


def inspect(options: argparse.Namespace) -> None:
    """Print what a model has and would cost; write a study file if asked to."""
    import rich.table
    from rich.console import Console

    from gluscope_assets.core.model.checkpoint import Checkpoint, fetch_config
    from gluscope_assets.core.model.inspection import inspect_checkpoint, spans, write_study
    from gluscope_assets.core.options import CheckpointOptions, CollectionOptions, CorpusOptions

    path = Path(options.model)
    if options.tokens < 1:
        raise InputError(f"--tokens {options.tokens} is no size of a corpus; give at least 1.")
    if not path.is_dir() and not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", options.model):
        raise InputError(f"There is no folder {options.model}; give one with config.json, or a Hub id such as owner/name.")
    if path.is_dir():
        if options.revision is not None:
            raise InputError(f"{path} is a folder and has no revisions; leave out --revision.")
        given = CheckpointOptions(name=_slug(path.resolve().name), path=path.resolve())
        folder = path.resolve()
    else:
        folder, commit = fetch_config(options.model, options.revision)
        given = CheckpointOptions(name=_slug(options.revision or commit[:7]), repository=options.model, revision=commit)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json; give the folder of a saved model or a Hub id.")
    # The weights are not hashed here: there may be none.
    found = inspect_checkpoint(Checkpoint(given.name, folder, ""), options.stack)
    table = rich.table.Table("layers", "MLP", "experts", "neurons", "σ", "tapped", box=None, header_style="bold")
    for part in found.parts:
        experts = "" if part.experts is None else str(part.experts)
        table.add_row(spans(part.layers), part.mlp, experts, f"{part.width:,}", part.activation, part.tap)
    console = Console()
    stack = f", {found.stack}" if found.stack else ""
    console.print(f"{options.model}: {found.model}{stack}, {_short(found.parameters)} parameters without its head")
    if found.routed is not None:
        met = _short(found.active_parameters)
        console.print(f"Each token is routed to {found.routed} experts and meets {met} parameters.")
    console.print(table)
    kept, cut = CollectionOptions(), CorpusOptions(source="standard_library")
    shards = math.ceil(options.tokens / (cut.pack_tokens * cut.shard_packs))
    console.print(
        f"{found.neurons:,} neurons in {len(found.layers)} layers. A checkpoint on {options.tokens:,} tokens takes about"
    )
    console.print(f"  {found.flops(options.tokens):.2e} FLOPs for the forward pass")
    console.print(f"  {_size(found.shard_bytes(kept, shards))} of activation shards, {shards:,} a layer")
    console.print(
        f"  {_size(found.aggregate_bytes(kept))} of aggregates (K = {kept.examples}, windows of {kept.window} positions)"
    )
    console.print(f"  {_size(found.page_bytes())} of pages, if every neuron gets one")
    if options.write is not None:
        write_study(found, given, options.write)
        console.print(f"Wrote {options.write}.")


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "model"


def _short(count: int) -> str:
    """`8.0 B`, `1.3 M`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def _size(count: float) -> str:
    """`44.0 GB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


# publish, export


def publish(options: argparse.Namespace) -> None:
    """Publish the site, or roll back, in a run like one that a person starts in the UI."""
    import dagster as dg

    from gluscope_assets.core.paths import default_home
    from gluscope_assets.definitions import build_defs
    from gluscope_assets.orchestration.jobs import publish_job

    study = _study(options.study)
    job = build_defs([study]).resolve_job_def(publish_job(study).name)
    key = dg.AssetKey([study.name, "published_site"])
    chosen = {"ops": {key.to_python_identifier(): {"config": {"roll_back": options.roll_back}}}}
    with _instance(default_home()) as instance:
        result = job.execute_in_process(run_config={**chosen, **QUIET}, instance=instance, tags=COMMAND_TAG)
    (event,) = result.asset_materializations_for_node(key.to_python_identifier())
    found = {name: value.value for name, value in event.metadata.items()}
    print(
        f"{found['target']}: publication {found['publication']}, {found['files']:,} files, "
        f"{found['files uploaded']:,} of them uploaded ({_size(float(str(found['bytes uploaded'])))})"
    )


def export(options: argparse.Namespace) -> None:
    """Write the dataset, or the paper's table of one checkpoint."""
    from gluscope_assets.core.exchange.dataset import write_dataset
    from gluscope_assets.core.exchange.paper_schema import export_paper
    from gluscope_assets.core.paths import StudyFolder, default_home
    from gluscope_assets.study.sources import all_sources

    study = _study(options.study)
    sources = all_sources(study, StudyFolder(default_home() / study.name))
    if not sources:
        raise InputError(f"{study.name} has no tables yet; run gluscope build --study {study.name} first.")
    if options.format == "dataset":
        write_dataset(sources, options.target, options.license)
    else:
        names = dict(sources[0].site_map.checkpoints)
        wanted = options.checkpoint or sources[-1].checkpoint_key
        aggregates = [source.aggregate for source in sources if wanted in (source.checkpoint_key, names[source.checkpoint_key])]
        if not aggregates:
            raise InputError(f"{study.name} has no tables of {wanted}; it has those of {', '.join(names.values())}.")
        export_paper(aggregates, options.target)
    print(f"Wrote {options.target}.")


def import_table(options: argparse.Namespace) -> None:
    """Make a table of the paper the aggregates of a checkpoint; corpus and weights are built, activations are not."""
    from gluscope_assets.commands.plan import Planner
    from gluscope_assets.core.corpus.tokenize import TokenizedCorpus, source_version
    from gluscope_assets.core.exchange.paper_schema import import_paper
    from gluscope_assets.core.files import hash_files, require_file
    from gluscope_assets.core.model.checkpoint import check_checkpoint, resolve_checkpoint
    from gluscope_assets.core.paths import StudyFolder, default_home
    from gluscope_assets.study.fingerprints import provenance

    study, home = _study(options.study), default_home()
    folder = StudyFolder(home / study.name)
    checkpoints = [resolve_checkpoint(given) for given in study.model.checkpoints]
    (checkpoint,) = _chosen([options.checkpoint], checkpoints, study)
    shape = check_checkpoint(checkpoint, study.model.layer_numbers, study.model.stack)
    digest = hash_files(require_file(options.table))
    with _only_build(home), _instance(home) as instance:
        plan = Planner(study, folder, instance, source_version(study.corpus), checkpoints).plan([checkpoint], shape.layers)
        weights = [replace(run, stages=("neuron_weights",)) for run in plan.layer_runs if "neuron_weights" in run.stages]
        _run_plan(study, replace(plan, layer_runs=weights, site=False), instance)
        corpus = TokenizedCorpus.open(folder.corpus)
        positions = corpus.n_tokens if study.collection.count_special_tokens else corpus.n_counted
        footer = provenance(study, "quadrant_aggregates", {"imported": digest}, checkpoint)
        place, activation = partial(folder.aggregate, checkpoint.key), shape.mlps[0].activation
        layers = import_paper(options.table, place, positions, activation, footer, shape.mlps[0].name)
    print(f"{study.name}: {len(layers)} layers of {checkpoint.name} are those of {options.table}; gluscope serve shows them.")


# serve, ui, studies


def serve(options: argparse.Namespace) -> None:
    """Serve the site, and every page that it lacks, until interrupted."""
    from gluscope_assets.core.paths import StudyFolder, default_home
    from gluscope_assets.core.serve.on_demand import OnDemand
    from gluscope_assets.study.sources import all_sources

    study = _study(options.study)
    folder = StudyFolder(default_home() / study.name)
    sources = all_sources(study, folder)
    if not sources and not (folder.site / "index.html").is_file():
        raise InputError(f"{folder.site} holds no site yet; run gluscope build --study {study.name} first.")
    with ExitStack() as stack:
        on_demand = stack.enter_context(closing(OnDemand(folder.site, sources))) if sources else None
        server = stack.enter_context(open_server(folder.site, options.port, on_demand))
        print(f"{study.title}: http://{HOST}:{server.server_port}/ (stop with Ctrl-C)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def ui(options: argparse.Namespace) -> None:
    """Become Dagster's webserver and daemon."""
    from gluscope_assets.core.paths import HOME_VARIABLE, default_home

    home = default_home()
    environment = {**os.environ, HOME_VARIABLE: str(home), "DAGSTER_HOME": str(_dagster_home(home))}
    # Dagster says on each start that its `dev` command is superseded by one that needs a project of another layout.
    environment["PYTHONWARNINGS"] = "ignore"
    command = ["-m", "dagster", "dev", "-m", "gluscope_assets.definitions", "-h", HOST, "-p", str(options.port)]
    print(f"Dagster UI: http://{HOST}:{options.port}/ (stop with Ctrl-C)", flush=True)
    # In place of this process, so that Ctrl-C reaches Dagster and it ends what it started.
    os.execve(sys.executable, [sys.executable, *command], environment)


def studies(options: argparse.Namespace) -> None:
    """A table with a row for each checkpoint of each study."""
    import rich.table
    from rich.console import Console

    from gluscope_assets.core.paths import StudyFolder, default_home
    from gluscope_assets.study.registry import with_registry
    from gluscope_assets.study.study import find_studies

    table = rich.table.Table("study", "checkpoint", "key", "layers", "pages", "status", box=None, header_style="bold")
    home = default_home()
    for name, given in find_studies().items():
        study = with_registry(given, StudyFolder(home / name))
        try:
            for row in _status_rows(study, home):
                table.add_row(*row)
        except InputError as error:
            table.add_row(study.name, "", "", str(len(study.model.layer_numbers)), "", str(error))
    Console().print(table)


def _status_rows(study: "Study", home: Path) -> Iterator[tuple[str, ...]]:
    """(study, checkpoint, key, layers, pages, status) of each checkpoint."""
    from gluscope_assets.commands.plan import Planner
    from gluscope_assets.core.corpus.tokenize import source_version
    from gluscope_assets.core.model.checkpoint import resolve_checkpoint
    from gluscope_assets.core.paths import StudyFolder, layer_neuron_pages

    folder = StudyFolder(home / study.name)
    checkpoints = [resolve_checkpoint(given) for given in study.model.checkpoints]
    layers = study.model.layer_numbers
    if not folder.root.is_dir():
        for checkpoint in checkpoints:
            yield study.name, checkpoint.name, checkpoint.key, str(len(layers)), "0", "not built"
        return
    with _instance(home) as instance:
        planner = Planner(study, folder, instance, source_version(study.corpus), checkpoints)
        for checkpoint in checkpoints:
            plan = planner.plan([checkpoint], layers)
            stale = sorted({stage for run in plan.layer_runs for stage in run.stages})
            pages = sum(len(layer_neuron_pages(folder.site, checkpoint.key, layer)) for layer in layers)
            status = f"to do: {', '.join(stale)}" if stale else "fresh"
            yield study.name, checkpoint.name, checkpoint.key, str(len(layers)), f"{pages:,}", status
