"""What pages say of texts is kept, so that neurons and layers share it."""

import numpy as np

from gluscope_assets.core.pages.shown_texts import ShownTexts
from gluscope_assets_tests.support.random_texts import RandomTexts


def test_layers_that_sample_the_same_positions_share_the_texts_around_them() -> None:
    texts, places = ShownTexts(RandomTexts()), np.array([3, 1], dtype=np.int64)
    first = texts.around(places, places)
    assert texts.around(places.copy(), places.copy()) is first
    other = texts.around(places, places + 1)
    assert other.position.tolist() == [4, 2]
    assert texts.around(places, places).position.tolist() == [3, 1]
