"""The names of quadrants, activations and lists: used in columns, pages and documents alike.

Nothing is computed here. The order of each tuple is part of the data contract.
"""

from typing import Literal

QUADRANTS = ("gate+_in+", "gate+_in-", "gate-_in+", "gate-_in-")
"""Sign combinations of (gate, in), in the order of every quadrant axis."""

ACTIVATIONS = ("gate", "in", "act", "post")
"""gate and in are the pre-activations, act = σ(gate), post = act · in; in the order of every activation axis."""

ODD = ("in", "post")
"""The activations that change their sign with in, as the oriented view makes it do."""

LISTS = tuple(
    (quadrant, activation)
    for quadrant in QUADRANTS
    for activation in ACTIVATIONS
    if activation != "act" or quadrant.startswith("gate-")
)
"""The 14 ranked lists of examples. act is ranked for gate- only: for gate+ it orders as gate does."""

View = Literal["oriented", "raw"]
"""Whether in and post are shown multiplied by the orientation, or as the model computes them."""


def column(quadrant: str, activation: str) -> str:
    """The column prefix of one list or statistic, such as `gate-_in+_post`."""
    return f"{quadrant}_{activation}"


def signs_of(quadrant: str) -> tuple[str, str]:
    """The signs of gate and of in: `+` and `-` for `gate+_in-`."""
    gate, in_ = quadrant.split("_")
    return gate[-1], in_[-1]


def oriented_quadrant(quadrant: str, orientation: int) -> str:
    """The quadrant's name once in is multiplied by the orientation: for -1, in+ and in- swap."""
    if orientation >= 0:
        return quadrant
    return quadrant[:-1] + {"+": "-", "-": "+"}[quadrant[-1]]
