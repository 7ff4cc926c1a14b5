"""Fluorescence sweeps: a bias shifts them, skew scales the lines, noise is that of photons."""

import torch
from support.plates import cdte_scanner, flawed

from pcctlearn.calibration.fluorescence import k_lines
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.simulation.fluorescence import fluorescence_sweep

SETTINGS = torch.arange(50.0, 66.0, dtype=torch.float64)


def swept(pixels, settings=SETTINGS, photons=1e4, scattered_share=0.2, seed=None):
    light = torch.full((len(pixels.gain),), photons, dtype=torch.float64)
    return fluorescence_sweep(
        pixels, cdte_scanner(), "W", settings, light, scattered_share, 1, seed
    )


def test_a_bias_shifts_the_sweep():
    nominal, biased = (flawed(n_pixels=3, skew_cm=0.0, bias_keV=b) for b in (0.0, 1.0))
    bias = (biased.thresholds_keV - biased.nominal_keV)[:, 1]
    for pixel in range(3):
        shifted = swept(nominal, SETTINGS + bias[pixel])
        torch.testing.assert_close(swept(biased)[pixel], shifted[pixel])


def test_skew_weakens_the_lines_by_what_it_absorbs():
    none, thick = (flawed(n_pixels=2, skew_cm=x, bias_keV=0.0) for x in (0.0, 0.01))
    ratio = swept(thick, scattered_share=0.0) / swept(none, scattered_share=0.0)
    outer = linear_attenuation(["CdTe"], k_lines("W").energies_keV)[0].aminmax()
    least, most = (torch.exp(-thick.thickness_cm[:, 0] * mu).sort().values for mu in outer)
    between = ratio.sort(0).values
    limits = torch.stack([least, most]).sort(0).values
    assert ((between >= limits[0, :, None]) & (between <= limits[1, :, None])).all()


def test_noise_is_that_of_photons():
    equal = flawed(n_pixels=400, skew_cm=0.0, bias_keV=0.0)
    noise = swept(equal, seed=1) - swept(equal)
    relative = noise / swept(equal).sqrt()
    assert 0.95 < relative.std() < 1.05
