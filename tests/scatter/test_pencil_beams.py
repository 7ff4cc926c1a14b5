"""Fit of kernels to profiles, and profiles of simulated pencil beams."""

import numpy as np
import pytest
import torch
from support.kernels import kernels
from support.scanners import scanner

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scatter.kernel_parameters import KERNEL, KernelParameters
from pcctlearn.scatter.pencil_beams import (
    PencilProfiles,
    fit_kernels,
    fit_profiles,
    pencil_profiles,
)
from pcctlearn.tomography.geometry.cone import ConeBeam

SCANNER = ConeBeam(1, 8, 12, 3.2, 62.5, 109.7)
THIN_AND_THICK = np.array([2.0, 3.0, 4.0, 5.0, 8.0, 12.0, 16.0, 20.0])


def profiles_of(parameters):
    """Profiles of pencil beams with these kernels."""
    depth = parameters.water_per_cm * THIN_AND_THICK
    radii = (np.arange(25) + 0.5) * 1.2
    transmission = np.exp(-np.outer(parameters.water_rates, depth))
    transmission = parameters.water_weights.numpy() @ transmission
    group = (parameters.borders_cm[0] < THIN_AND_THICK).astype(int)
    A, alpha, beta, s1, B, s2 = (
        getattr(parameters, name).numpy()[:, group, None] for name in KERNEL[:-1]
    )
    c = A * np.exp(-alpha * depth[:, None]) * depth[:, None] ** beta
    g = np.exp(-(radii**2) / (2 * s1**2)) + B * np.exp(-(radii**2) / (2 * s2**2))
    scatter = transmission[-1][:, None] * c * g
    return PencilProfiles(THIN_AND_THICK, transmission, radii, scatter, 0 * scatter)


def test_the_fit_recovers_the_kernels_of_the_profiles():
    true = kernels()
    found = fit_profiles(profiles_of(true), true.borders_cm, 110.0, {"seed": "0"})
    for name in KERNEL:
        tolerance = {"rtol": 1e-3, "atol": 1e-5}
        torch.testing.assert_close(getattr(found, name), getattr(true, name), **tolerance)
    assert found.water_per_cm == pytest.approx(0.2)
    depth = torch.linspace(0, 4, 9)[:, None]
    water, expected = (torch.exp(-k.water_rates * depth) @ k.water_weights.T for k in (found, true))
    torch.testing.assert_close(water, expected, rtol=2e-3, atol=0)


def test_each_group_needs_three_slabs():
    with pytest.raises(ValueError, match=r"16 .* 2 slabs"):
        fit_profiles(profiles_of(kernels()), [16.0], 110.0)


def test_profiles_are_independent_of_the_fluence():
    one = scanner(every=4)
    ten = SpectralModel(
        one.energies_keV, 10 * one.fluence, one.response, one.thresholds, one.attenuation
    )
    weak, strong = (
        pencil_profiles(SCANNER, model, [6.0], 1, 160, group_stride=1) for model in (one, ten)
    )
    np.testing.assert_allclose(weak.scatter_per_cm2, strong.scatter_per_cm2)
    np.testing.assert_allclose(weak.transmission, strong.transmission)
    assert weak.scatter_per_cm2.shape == (4, 1, 25)
    assert (weak.scatter_per_cm2 >= 0).all()


def test_the_same_seed_gives_the_same_kernels(tmp_path):
    model = scanner(every=4)

    def fitted(seed):
        return fit_kernels(
            SCANNER,
            model,
            [2.0, 6.0, 10.0, 16.0],
            borders_cm=(),
            seed=seed,
            n_histories=160,
            group_stride=1,
        )

    one, same, other = (fitted(seed) for seed in (1, 1, 2))
    assert torch.equal(one.amplitude_per_cm2, same.amplitude_per_cm2)
    assert not torch.equal(one.amplitude_per_cm2, other.amplitude_per_cm2)
    assert one.passport["seed"] == "1"
    one.save(tmp_path / "kernels.json")
    assert KernelParameters.load(tmp_path / "kernels.json").passport == one.passport


def test_slabs_without_thickness_raise_an_error():
    with pytest.raises(ValueError, match="thicknesses_cm"):
        pencil_profiles(SCANNER, scanner(every=4), [0.0, 4.0], 1, 160)


def test_thresholds_per_pixel_raise_an_error():
    with pytest.raises(ValueError, match=r"thresholds .*scatter=network"):
        pencil_profiles(SCANNER, scanner(every=4, n_pixels=3), [4.0], 1, 160)
