"""Absorbed dose of a scan: energy balance, scale with views, and thin objects."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pcctlearn.montecarlo.object.dose import scan_dose
from pcctlearn.phantoms.ellipses import Ellipse, EllipsePhantom
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid

FAN = FanBeam(
    n_views=10, n_columns=64, pixel_cm=0.5, source_to_axis_cm=62.5, source_to_detector_cm=109.7
)
GRID = ImageGrid(48, 48, 0.3)


def dose_of(radius_cm, density=1.0, fan=FAN, **options):
    disc = EllipsePhantom([Ellipse((0.0, 0.0), (radius_cm,) * 2, (density,))], ["water"])
    sizes = {"lowest_keV": 20.0, "highest_keV": 60.0, "n_histories": 3000, "n_directions": 2}
    return scan_dose(disc.maps(GRID), GRID, ["water"], fan, **sizes | options)


# μ_en/ρ of water, J. H. Hubbell and S. M. Seltzer, NISTIR 5632 (1995)
ABSORPTION_CM2_G = {30.0: 0.1557, 40.0: 0.06947, 50.0: 0.04223, 60.0: 0.03190}


def kerma_mGy(energy_keV):
    """Energy that 10 photons per detector pixel transfer to water on the axis, without loss."""
    fluence = 10 / 0.5**2 * (109.7 / 62.5) ** 2
    return fluence * ABSORPTION_CM2_G[energy_keV] * energy_keV * 1.602176634e-10


@pytest.mark.physics
def test_a_thin_object_absorbs_its_kerma():
    """E Φ μ_en/ρ: a cylinder of 5 mg/cm³ neither attenuates nor absorbs scatter."""
    found = dose_of(4.0, density=0.005, lowest_keV=30.0, n_histories=8_000_000)
    assert found.relative_error < 0.02
    for energy, dose in zip(found.energies_keV, found.mGy_per_photon, strict=True):
        assert dose == pytest.approx(kerma_mGy(energy), rel=0.05)


@pytest.mark.physics
def test_a_thick_object_absorbs_less_of_soft_and_more_of_hard_photons():
    """Attenuation lowers the mean dose at 30 keV, absorbed scatter raises it at 60 keV."""
    found = dose_of(7.0, lowest_keV=30.0, n_histories=20_000)
    soft, hard = (found.mGy_per_photon[i] / kerma_mGy(found.energies_keV[i]) for i in (0, -1))
    assert soft < 0.6
    assert hard > 1


def test_dose_is_proportional_to_views_and_linear_in_the_fluence():
    once, twice = dose_of(5.0), dose_of(5.0, fan=replace(FAN, n_views=20))
    np.testing.assert_allclose(twice.mGy_per_photon, 2 * once.mGy_per_photon)
    energies = torch.tensor([25.0, 40.0, 55.0])
    fluence = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    once.mGy(energies, fluence).backward()
    torch.testing.assert_close(fluence.grad, once.per_photon(energies))


def test_photons_beyond_the_simulation_are_rejected():
    with pytest.raises(ValueError, match=r"20 to 60 keV.* 80 keV.*highest_keV"):
        dose_of(5.0).per_photon(torch.tensor([40.0, 80.0]))


def test_dose_does_not_depend_on_an_empty_border_of_the_grid():
    disc = EllipsePhantom([Ellipse((0.0, 0.0), (5.0, 5.0), (1.0,))], ["water"])
    wide = ImageGrid(64, 56, 0.3)
    options = {"lowest_keV": 40.0, "highest_keV": 50.0, "n_histories": 8000, "n_directions": 2}
    doses = [
        scan_dose(disc.maps(grid), grid, ["water"], FAN, **options).mGy_per_photon
        for grid in (GRID, wide)
    ]
    np.testing.assert_allclose(*doses, rtol=0.05)
