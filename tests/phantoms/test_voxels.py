"""HU are converted to densities by the documented equations."""

import pytest
import torch

from pcctlearn.phantoms.voxels import water_and_calcium
from pcctlearn.physics.attenuation import mass_attenuation


@pytest.mark.parametrize(
    ("tissue_HU", "water", "calcium"),
    [
        (50, 1.050, 0.0),
        (350, 1.090, 0.106),
        (1550, 1.333, 0.498),
        (-101, 0.899, 0.0),
        (-1024, 0.0, 0.0),
    ],
)
def test_known_tissues(tissue_HU, water, calcium):
    found = water_and_calcium(torch.tensor([float(tissue_HU)]))[:, 0]
    torch.testing.assert_close(found, torch.tensor([water, calcium]), rtol=0, atol=6e-4)


@pytest.mark.parametrize("effective_keV", [60.0, 70.0])
def test_vmi_at_the_effective_energy_returns_the_hu(effective_keV):
    hounsfield = torch.linspace(-1000, 2000, 301)
    maps = water_and_calcium(hounsfield, threshold_HU=24.0, effective_keV=effective_keV)
    water, calcium = (mass_attenuation(m, [effective_keV]) for m in ("water", "calcium"))
    vmi = maps[0] + maps[1] * calcium / water
    torch.testing.assert_close(1000 * (vmi - 1), hounsfield)


def test_threshold_with_negative_calcium_raises():
    with pytest.raises(ValueError, match=r"threshold_HU .* 0$"):
        water_and_calcium(torch.zeros(1), threshold_HU=0.0)
