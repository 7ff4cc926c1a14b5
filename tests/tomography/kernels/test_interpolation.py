"""Compiled interpolation along a line is the sum over hats, with permutes and without."""

import os
import subprocess
import sys

import numpy as np
import pytest
from numba.core.registry import cpu_target

from pcctlearn.tomography.kernels.hat_interpolation_numba import (
    PADDING,
    add_interpolated,
    margin_for,
)
from pcctlearn.tomography.kernels.permuted_interpolation_numba import fits

# within and beyond the reach of a permute, and the transpose of each
SLOPES = [0.03, 0.3, 0.57, 0.8, 0.999, 1.0, 1.07, 1.36, 1.7, 1.9, 2.6, 11.0]
SETTINGS = [(slope, 1.0) for slope in SLOPES] + [(1.0, slope) for slope in SLOPES]


def interpolation_error(dtype, slope_out, slope_in, n_in, n_out, offset):
    """Largest error, relative to the largest sum of absolute values, for random samples."""
    rng, slope = np.random.default_rng(0), slope_out / slope_in
    margin, samples = margin_for((slope, slope)), rng.standard_normal(n_in).astype(dtype)
    line, result = np.zeros(n_in + 2 * margin, dtype), np.ones(n_out + PADDING, dtype)
    line[margin : margin + n_in] = samples
    add_interpolated(line, n_in, margin, result, n_out, slope_out, slope_in, offset)
    k, j = np.arange(n_out)[:, None], np.arange(n_in)
    hats = np.maximum(1 - np.abs(slope_out * k - slope_in * j + offset), 0)
    return np.abs(result[:n_out] - 1 - hats @ samples).max() / (1 + hats @ np.abs(samples)).max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("slopes", SETTINGS, ids=str)
@pytest.mark.parametrize("sizes", [(256, 250), (1, 70), (70, 1), (5, 3)], ids=str)
def test_is_a_sum_over_hats(dtype, tolerance, slopes, sizes):
    for offset in (0.0, -0.3, 7.9, -25.6, 300.0, -1e6, 1e6):
        assert interpolation_error(dtype, *slopes, *sizes, offset) <= tolerance


def test_permutes_serve_the_usual_slopes_in_single_precision():
    *_, features = cpu_target.target_context.codegen().magic_tuple()
    line = np.zeros(1, np.float32)
    assert fits(line, 1.36, 1.0) == fits(line, 1.0, 0.74) == ("+avx2" in features)
    assert not fits(line, 11.0, 1.0)
    assert not fits(line.astype(np.float64), 1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("features", ["", "+avx,+avx2,+fma"])
def test_other_processors(features):
    """The same results without wide vectors, and without any permute."""
    *_, available = cpu_target.target_context.codegen().magic_tuple()
    if not set(features.split(",")) <= {"", *available.split(",")}:
        pytest.skip("this processor has no AVX2")
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features}
    options = ("-q", "-n", "0", "-p", "no:cacheprovider", "-k", "not processors", __file__)
    subprocess.run([sys.executable, "-m", "pytest", *options], env=environment, check=True)
