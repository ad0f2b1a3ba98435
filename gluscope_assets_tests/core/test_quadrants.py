"""Quadrants: what their names say."""

import pytest

from gluscope_assets.core.quadrants import QUADRANTS, oriented_quadrant, signs_of


@pytest.mark.parametrize("quadrant", QUADRANTS)
def test_a_quadrants_name_says_its_signs(quadrant: str) -> None:
    gate, in_ = signs_of(quadrant)
    assert f"gate{gate}_in{in_}" == quadrant
    assert signs_of(oriented_quadrant(quadrant, 1)) == (gate, in_)
    assert signs_of(oriented_quadrant(quadrant, -1)) == (gate, {"+": "-", "-": "+"}[in_])
