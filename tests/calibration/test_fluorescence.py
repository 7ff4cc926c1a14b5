"""Threshold biases from fluorescence: sign, error bars, starved pixels."""

import pytest
import torch

from pcctlearn.calibration.fluorescence import (
    fitted_edges,
    fluorescence_bias,
    k_lines,
    nearest_usable,
)
from pcctlearn.physics.noise import draw_counts

SETTINGS = torch.arange(45.0, 76.0, dtype=torch.float64)


def sweep(center_keV, events=1e4, sigma_keV=1.8, background=20.0, seed=None):
    """Counts above each setting of a Gaussian line on a flat background; one pixel per center."""
    c = torch.as_tensor(center_keV, dtype=torch.float64)[:, None]
    counts = events * torch.special.ndtr((c - SETTINGS) / sigma_keV)
    counts = counts + background * (90 - SETTINGS)
    return counts if seed is None else draw_counts(counts, torch.Generator().manual_seed(seed))


def test_tungsten_lines():
    """59.318 and 57.981 keV (R. D. Deslattes et al., Rev. Mod. Phys. 75 (2003) 35)."""
    lines = k_lines("W")
    assert lines.alpha_keV == pytest.approx(58.83, abs=0.02)
    assert lines.energies_keV[0] == pytest.approx(59.318, abs=0.002)
    assert float(lines.shares.sum()) == pytest.approx(1)


def test_the_center_of_a_line_is_found():
    centers = [56.3, 58.8, 60.1]
    found = fitted_edges(sweep(centers), SETTINGS, 58.8)
    assert found.converged.all()
    torch.testing.assert_close(found.center_keV, torch.tensor(centers).double(), atol=1e-5, rtol=0)


@pytest.mark.physics
def test_error_bars_hold():
    """√(2/2000) of the standard deviation is 3 %."""
    found = fitted_edges(sweep([58.5] * 1000, seed=1), SETTINGS, 58.8)
    relative = (found.center_keV - 58.5) / found.sd_keV
    assert found.converged.all()
    assert relative.std() == pytest.approx(1, abs=0.1)
    assert relative.mean() == pytest.approx(0, abs=0.15)


def test_a_threshold_that_is_too_high_has_a_positive_bias():
    """T = s + bias passes the line at a lower setting: the sign of ``PixelModel``."""
    line_keV = k_lines("W").alpha_keV
    found = fluorescence_bias({"W": sweep([line_keV - 0.7, line_keV])}, SETTINGS, 60.0)
    assert found.usable.all()
    torch.testing.assert_close(found.bias_keV, torch.tensor([0.7, 0.0]).double(), atol=1e-4, rtol=0)


def test_biases_are_interpolated_between_two_lines():
    gadolinium, tungsten = k_lines("Yb").alpha_keV, k_lines("Pt").alpha_keV
    sweeps = {"Pt": sweep([tungsten - 1.0]), "Yb": sweep([gadolinium - 0.2])}
    at = (gadolinium + tungsten) / 2
    found = fluorescence_bias(sweeps, SETTINGS, at)
    assert float(found.bias_keV) == pytest.approx(0.6, abs=1e-3)
    beyond = fluorescence_bias(sweeps, SETTINGS, 73.0)
    assert float(beyond.bias_keV) == pytest.approx(1.0, abs=1e-3)


def test_starved_pixels_take_the_nearest_bias():
    line_keV = k_lines("W").alpha_keV
    counts = sweep([line_keV - 0.5, line_keV, line_keV + 0.5, line_keV])
    dim = sweep([line_keV] * 4, events=3.0, background=5.0, seed=2)
    counts[[0, 3]] = dim[[0, 3]]
    found = fluorescence_bias({"W": counts}, SETTINGS, 60.0)
    assert found.usable.tolist() == [False, True, True, False]
    assert found.bias_keV[0] == found.bias_keV[1]
    assert found.bias_keV[3] == found.bias_keV[2]
    assert found.sd_keV[~found.usable].isinf().all()


def test_nearest_of_two_sides():
    usable = torch.tensor([False, True, False, False, True, False])
    filled = nearest_usable(torch.arange(6.0), usable)
    assert filled.tolist() == [1, 1, 1, 4, 4, 4]


@pytest.mark.parametrize(
    ("sweeps", "named"),
    [
        ({}, "metals is empty"),
        ({"Pb": sweep([60.0])}, r"sweep_keV=\[45,80\]"),
        ({"Gd": sweep([60.0])}, r"sweep_keV=\[37,75\]"),
        ({"tungsten": sweep([60.0])}, "symbols"),
        ({"W": sweep([58.8], events=1.0, background=0.1, seed=1)}, "expose longer"),
    ],
)
def test_what_is_wrong_is_named(sweeps, named):
    with pytest.raises(ValueError, match=named):
        fluorescence_bias(sweeps, SETTINGS, 60.0)
