"""The published dataset: a study's tables as Parquet files with a dataset card, laid out to be read by pattern.

What belongs here: the layout, and what a reader who has nothing but the folder must know of its columns; the card's text is the
template `dataset_card.md`. Exports in others' schemas are in `paper_schema` and `neuronpedia`; where a study's tables lie is
said by its `LayerSource`s.
"""

import os
import re
import shutil
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

import gluscope_assets
from gluscope_assets.core.corpus.decoder import TokenDecoder
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.files import read_provenance, replacing_folder, require_file, write_parquet
from gluscope_assets.core.pages.layer_source import LayerSource
from gluscope_assets.core.pages.templates import environment
from gluscope_assets.core.paths import layer_folder_name
from gluscope_assets.core.quadrants import ACTIVATIONS, LISTS, ODD, QUADRANTS, column
from gluscope_assets.core.tables import schema
from gluscope_assets.core.tables.orientation import scan_neurons
from gluscope_assets.core.tables.schema import widest

DATASET_CARD = "README.md"
VOCABULARY_TABLE = "vocabulary.parquet"
MARK = "<!-- written by GLUScope -->"
"""In a card: the folder may be replaced."""

FACTS = ("weights_hash", "model", "dtype", "computed_on", "content_hash", "positions", "examples", "imported_from")
"""What a card says of where a checkpoint's tables come from, as far as their footers hold it."""


def write_dataset(sources: Sequence[LayerSource], target: Path, license: str) -> None:
    """Write the tables of layers as a dataset into the folder `target`, all or nothing.

    `neurons/<checkpoint>/layer-NN.parquet` has statistics joined with weights, raw, `examples/<checkpoint>/layer-NN.parquet`
    the lists with their windows, `vocabulary.parquet` the text of each token, `README.md` a dataset card for the Hub with
    `license` in it, an identifier such as mit. Examples are hard links where the file system allows, so that they take no
    room; files whose windows are narrower than those of other layers are written again, for all of a pattern must be of
    one type. The corpus and the position sample stay where they are. Only a folder that this function wrote is replaced.

    InputError if there are no layers, a table is missing, the license is no identifier, or `target` holds something else.
    """
    if not sources:
        raise InputError("There is nothing to publish; build the study first.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", license):
        raise InputError(f"license is {license!r}; give an identifier that the Hub knows, such as mit or cc-by-4.0.")
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not _is_ours(target))):
        raise InputError(f"{target} holds something that is no dataset of GLUScope; give a folder that is empty or not there.")
    with replacing_folder(target) as folder:
        types = _common_schema([source.examples for source in sources])
        for source in sources:
            name = f"{source.checkpoint_key}/{layer_folder_name(source.layer)}.parquet"
            _write_neurons(source, folder / "neurons" / name)
            _link_examples(source.examples, folder / "examples" / name, types)
        decoder = TokenDecoder.from_folder(sources[0].tokenizer)
        pieces = [decoder.piece(token) for token in range(len(decoder.split))]
        vocabulary = pa.table({"token": pa.array(range(len(pieces)), pa.int32()), "piece": pa.array(pieces, pa.string())})
        write_parquet(vocabulary, folder / VOCABULARY_TABLE, {}, row_group_size=1 << 16)
        (folder / DATASET_CARD).write_text(dataset_card(sources, license), encoding="utf-8")


def remove_dataset(target: Path) -> None:
    """Delete the folder `target` if `write_dataset` wrote it."""
    if target.is_dir() and _is_ours(target):
        shutil.rmtree(target)


def _is_ours(target: Path) -> bool:
    card = target / DATASET_CARD
    return card.is_file() and MARK in card.read_text(encoding="utf-8", errors="replace")


def _write_neurons(source: LayerSource, path: Path) -> None:
    frame = scan_neurons([source.aggregate], [source.weights], view="raw").drop("oriented")
    rows = frame.select(pl.lit(source.checkpoint_key).alias("checkpoint"), pl.all()).collect()
    footer = read_provenance(source.statistics) | {"weights": read_provenance(source.weights)}
    write_parquet(rows.to_arrow(compat_level=pl.CompatLevel.oldest()), path, footer)


def _common_schema(files: Sequence[Path]) -> pa.Schema:
    """The schema that all examples fit: each column's widest type."""
    schemas = [pq.read_schema(require_file(file)) for file in files]
    names = schemas[0].names
    return pa.schema([(name, reduce(widest, (one.field(name).type for one in schemas))) for name in names])


def _link_examples(source: Path, path: Path, types: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = pq.ParquetFile(source)
    if not file.schema_arrow.equals(types):
        with pq.ParquetWriter(path, types.with_metadata(file.schema_arrow.metadata), compression="zstd") as writer:
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group).cast(types))
        return
    try:
        os.link(source, path)
    except OSError:  # another file system
        shutil.copyfile(source, path)


# The card


def dataset_card(sources: Sequence[LayerSource], license: str) -> str:
    """The dataset card: front matter that the Hub and `datasets` read, columns with units, provenance, loading examples."""
    site_map, last = sources[0].site_map, sources[-1]
    keys = list(dict.fromkeys(source.checkpoint_key for source in sources))
    front = {
        "license": license,
        "pretty_name": f"{site_map.title}: what its gated neurons do",
        "tags": ["interpretability", "neurons", "gated-mlp", "gluscope"],
        "configs": [
            {
                "config_name": name,
                "data_files": [{"split": split_of(key), "path": f"{name}/{key}/*.parquet"} for key in keys],
                **({"default": True} if name == "neurons" else {}),
            }
            for name in ("neurons", "examples")
        ],
    }
    # The first of a checkpoint's layers speaks for all.
    footers = {source.checkpoint_key: read_provenance(source.statistics) for source in reversed(sources)}
    template = environment().get_template("dataset_card.md")
    text = template.render(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000).strip(),
        mark=MARK,
        site_map=site_map,
        version=gluscope_assets.__version__,
        schema=schema,
        odd=[*ODD, *(one.name for one in schema.WEIGHTS.stored if one.changes_sign() and one.is_numeric)],
        quadrants=QUADRANTS,
        activations=ACTIVATIONS,
        lists=[column(*ranked) for ranked in LISTS],
        facts=[fact for fact in FACTS if any(fact in footer for footer in footers.values())],
        footers={key: footers[key] for key in keys},
        key=last.checkpoint_key,
        layer=layer_folder_name(last.layer),
        split=split_of(last.checkpoint_key),
    )
    return f"{text}\n"


def split_of(key: str) -> str:
    """A checkpoint's key as the name of a split, in which `datasets` allows letters, digits and underscores."""
    return re.sub(r"\W", "_", key)
