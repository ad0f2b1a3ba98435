"""The page templates: where they lie, and the environment that fills them.

What is filled in belongs to `layer_pages` and `core.site.site`, how numbers and names are written to `formats`.
"""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

import gluscope_assets
from gluscope_assets.core.errors import InputError
from gluscope_assets.core.pages import formats
from gluscope_assets.core.paths import layer_name
from gluscope_assets.core.quadrants import QUADRANTS


def template_folder() -> Path:
    """The folder with `templates/` and `static/`: inside an installed package, else at the top of a checkout."""
    package = Path(gluscope_assets.__file__).parent
    for folder in (package / "_site", package.parent / "site"):
        if (folder / "templates").is_dir():
            return folder
    raise InputError(f"The page templates are missing from {package}; install the package again.")


@cache
def environment() -> jinja2.Environment:
    """Escapes everything in HTML, and fails on a name that is not given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_folder() / "templates"),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": formats.format_count,
        "decimal": formats.format_decimal,
        "share": formats.format_share,
        "number": formats.format_number,
        "pages": lambda ranges: sum(end - first for first, end in ranges),
        "mlp_index": formats.format_mlp_index,
        "layer_name": layer_name,
        "json": formats.safe_json,
        "quadrant": formats.quadrant_label,
        "sign": formats.signed,
        "tick": formats.format_tick,
        "rows": formats.format_rows,
        "bibtex": formats.bibtex,
    }
    environment.globals["icons"] = {quadrant: _icon(quadrant) for quadrant in QUADRANTS}
    return environment


def _icon(quadrant: str) -> Markup:
    """Four squares placed like a plot of in over gate, that of the quadrant filled."""
    squares = []
    for name in ("gate-_in+", "gate+_in+", "gate-_in-", "gate+_in-"):
        left, top = (9 if name[4] == "+" else 0), (0 if name[-1] == "+" else 9)
        on = f' class="s{QUADRANTS.index(name)}"' if name == quadrant else ""
        squares.append(f'<rect{on} x="{left}" y="{top}" width="7" height="7"/>')
    return Markup(f'<svg class="mark" viewBox="0 0 16 16" aria-hidden="true">{"".join(squares)}</svg>')


def write_page(path: Path, content: bytes) -> int:
    """Write a file of the site into a folder that is there, all or nothing, and return its size."""
    # Leaner than `replacing`, because a site has very many files; only one process writes a given one.
    temporary = f"{path.parent}/.{path.name}.{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return len(content)
