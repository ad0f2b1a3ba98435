"""Numbers, names and data as pages write them. What a page shows is decided by `neuron_view` and the modules of
`core.site`."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

SPACES = re.compile(" {3,}")
"""Indentation, which would push the words of an example out of sight."""


@dataclass(frozen=True)
class MlpIndex:
    """Which neuron of which gated MLP a neuron is, in a layer with several."""

    mlp: str
    """The MLP's path in the layer."""
    expert: int | None
    """None if all tokens enter the MLP."""
    index: int
    """In the MLP, or in the expert."""


def safe_json(value: object) -> Markup:
    """JSON that cannot end the script element or attribute that it stands in."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&'"}))


def format_count(count: int) -> str:
    """A count with narrow spaces between thousands."""
    return f"{count:,}".replace(",", "\u202f")


def format_share(share: float) -> str:
    """A frequency in percent. What is not 0 or 1 never reads as 0 % or 100 %."""
    if share == 0 or share == 1:
        return f"{share:.0%}"
    percent = 100 * share
    if percent < 0.01:
        return "<0.01%"
    if percent > 99.99:
        return ">99.99%"
    return f"{percent:.2f}%" if percent < 10 else f"{percent:.1f}%"


_FIXED = tuple(f"%.{digits}f" for digits in range(32))
"""Made once: a page has hundreds of numbers."""


def format_number(value: float | None, digits: int = 4) -> str:
    """`digits` significant digits with a true minus sign; a dash for what is not there."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if -3 <= size < 7:
        text = _FIXED[max(digits - 1 - size, 0)] % value
    else:
        fraction, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{fraction}e{int(exponent)}"
    return text.replace("-", "−")


def format_rows(numbers: Mapping[str, Iterable[float | None]]) -> Markup:
    """The rows of a table of activations, `format_number` of each value. The rows of in and post change sign between views."""
    rows = []
    for activation, values in numbers.items():
        odd = " data-odd" if activation in ("in", "post") else ""
        cells = "".join([f"<td>{format_number(value)}</td>" for value in values])
        rows.append(f'<tr{odd}><th scope="row">{activation}</th>{cells}</tr>')
    return Markup("".join(rows))


def format_decimal(value: float | None, digits: int) -> str:
    """`digits` digits after the point with a true minus sign; a dash for what is not there."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}" if value else "0"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def signed(value: float | None, digits: int = 4) -> str:
    """`format_number` with a plus sign where it applies."""
    return ("+" if value is not None and value > 0 else "") + format_number(value, digits)


def format_mlp_index(neuron: MlpIndex) -> str:
    """`neuron 17 of expert 5` or `neuron 17 of mlp.shared_expert`."""
    return f"neuron {neuron.index} of {neuron.mlp if neuron.expert is None else f'expert {neuron.expert}'}"


def quadrant_label(name: str) -> str:
    """`gate+_in-` as text: `gate+ in−`."""
    return name.replace("_", "\u2002").replace("-", "−")


def format_tick(value: float) -> str:
    """A round number without superfluous digits."""
    return f"{value:.6g}".replace("-", "−")


def bibtex(text: str) -> str:
    """`text` inside the braces of a BibTeX field."""
    return re.sub(r"([\\{}$&#%_^~])", lambda sign: BIBTEX.get(sign[1], "\\" + sign[1]), text)


BIBTEX = {"\\": "\\textbackslash{}", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}"}
"""The signs that are not written with a backslash before them."""
