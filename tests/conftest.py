"""Every test runs with the shape annotations switched on and in float64."""

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("pcctlearn", "beartype.beartype")


@pytest.fixture(autouse=True)
def _double_precision_and_seed():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)
