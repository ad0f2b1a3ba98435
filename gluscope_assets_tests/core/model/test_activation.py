"""Activation functions without torch against torch in float64."""

import numpy as np
import pytest
import torch

from gluscope_assets.core.model.activation import ACTIVATION_FUNCTIONS


@pytest.mark.parametrize("name", ACTIVATION_FUNCTIONS)
def test_the_same_without_torch(name: str) -> None:
    function = ACTIVATION_FUNCTIONS[name]
    gate = np.concatenate([np.linspace(-30, 30, 6001), [0.0, -0.0, 200.0, -200.0, 1e-30]]).astype(np.float32)
    exact = function.compute(torch.from_numpy(gate).double()).numpy()
    found = function.of_array(gate)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, rtol=2e-5, atol=1e-30 if name == "sigmoid" else 1e-9)
