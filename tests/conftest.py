"""Every test runs with the shape annotations switched on and in float64."""

import os
from pathlib import Path

import numba
import pytest
import torch
from jaxtyping import config, install_import_hook

if not torch.cuda.is_available():
    # Triton's kernels then run on the CPU, slowly; it is read when Triton is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")
install_import_hook("pcctlearn", "beartype.beartype")
pytest.register_assert_rewrite("support")
# for small tensors, waiting for a second thread takes longer than it saves
torch.set_num_threads(1)
numba.set_num_threads(1)


# tests that start commands, or train and evaluate; `-m "not physics and not slow"` leaves them out
SLOW = (
    "app/test_comparison",
    "app/test_home",
    "app/test_interruption",
    "app/test_train",
    "calibration/test_etb",
    "calibration/test_layer_slabs",
    "calibration/test_self_calibration",
    "decomposition/test_adapters",
    "decomposition/test_benchmark_memory",
    "decomposition/test_hostile_rays",
    "decomposition/test_triton",
    "docs/test_commands",
    "evaluation",
    "figures/test_figures",
    "montecarlo/detector/test_simulation",
    "montecarlo/object/test_object_scatter",
    "montecarlo/object/test_transport",
    "patients/test_damaged_ct",
    "patients/test_dicom_series",
    "phantoms/test_abdomens",
    "phantoms/test_heads",
    "reading/test_damaged",
    "runs",
    "scans/validation/test_air",
    "scans/validation/test_pixels",
    "scatter/test_checkpoint",
    "scatter/test_kernel",
    "scatter/test_pencil_beams",
    "simulation/test_flat_beams",
    "simulation/test_job",
    "solvers/test_implicit",
    "studies",
    "test_benchmarks",
    "test_conf",
    "test_extending",
    "test_fuzz_files",
    "test_kills",
    "test_packaging",
    "test_threads",
    "tomography/kernels/test_cone_triton",
    "training/test_chain_module",
)


def pytest_collection_modifyitems(items):
    tests = Path(__file__).parent
    for item in items:
        if item.path.relative_to(tests).as_posix().startswith(SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """Fixtures that tests share start with torch's own precision and a seed, and change neither.

    They are set up outside ``_double_precision_and_seed``: what they changed would hold for the
    shared fixtures of all files that run later.
    """
    if fixturedef.scope == "function":
        return (yield)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return (yield)
    finally:
        torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def _double_precision_and_seed():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def annotations_off():
    """Switch the annotations off, as for users: only constructors check shapes."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session")
def matrix_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("matrices")


@pytest.fixture(autouse=True)
def _own_cache(matrix_folder, monkeypatch):
    """Keep the projection matrices of the tests out of the user's cache."""
    monkeypatch.setenv("PCCTLEARN_CACHE", str(matrix_folder))
