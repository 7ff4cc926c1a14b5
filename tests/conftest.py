"""Every test runs with the shape annotations switched on and in float64."""

import os

import numba
import pytest
import torch
from jaxtyping import config, install_import_hook

if not torch.cuda.is_available():
    # Triton's kernels then run on the CPU, slowly; it reads this once, when it is first imported
    os.environ.setdefault("TRITON_INTERPRET", "1")
install_import_hook("pcctlearn", "beartype.beartype")
pytest.register_assert_rewrite("support")
# small tensors: a second thread that waits for a busy core costs more than it brings
torch.set_num_threads(1)
numba.set_num_threads(1)


@pytest.fixture(autouse=True)
def _double_precision_and_seed():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def annotations_off():
    """As users run it: a shape that does not fit is told by the constructor itself."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)
