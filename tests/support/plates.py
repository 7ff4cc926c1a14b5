"""A small CdTe detector with known flaws, and counts behind aluminium plates."""

from functools import cache

import torch

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.response.presets import cdte_monte_carlo
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.simulation.plates import measured_plates

PLATES_CM = torch.tensor([[0.0], [0.5], [1.0], [1.5], [2.0]], dtype=torch.float64)
AS_PROPOSED = {
    "materials": ["CdTe", "aluminium"],
    "normalisation": "model",
    "comparison": "counts",
    "prior_cm": {"CdTe": 0.005, "aluminium": 0.2},
}  # conf/calibration/etb_as_proposed.yaml


@cache
def cdte_scanner(edges_keV=(40.0, 60.0, 149.0), materials=("water", "calcium")) -> SpectralModel:
    tube = Spectrum.tungsten(120.0, {"aluminium": 0.2}, photons_per_pixel=1e6)
    table = attenuation_table(materials, tube.energies_keV)
    thresholds = Thresholds(list(edges_keV))
    response = cdte_monte_carlo()
    return SpectralModel(
        tube.energies_keV, tube.fluence, response, thresholds, table, list(materials)
    ).requires_grad_(False)


def water_iodine_scanner() -> SpectralModel:
    return cdte_scanner(materials=("water", "iodine"))


def held_out() -> torch.Tensor:
    """Water of 0.5 to 29.5 and iodine of 0.0025 to 0.0575 g/cm², between the points of fits."""
    water = torch.linspace(0.5, 29.5, 30, dtype=torch.float64)
    iodine = torch.linspace(0.0025, 0.0575, 12, dtype=torch.float64)
    return torch.cartesian_prod(water, iodine).reshape(30, 12, 2)


def flawed(
    n_pixels=40, skew_cm=0.004, bias_keV=1.0, material="CdTe", edges_keV=(40.0, 60.0, 149.0), seed=0
) -> PixelModel:
    """Skew and bias of every pixel drawn from a seed; no bias of the lowest threshold."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).clamp(-2.5, 2.5)

    nominal = torch.tensor(edges_keV[:-1], dtype=torch.float64)
    bias = bias_keV * normal(n_pixels, len(nominal))
    bias[:, 0] = 0
    return PixelModel.known(
        gain=1 + 0.01 * normal(n_pixels),
        thickness_cm=skew_cm * normal(n_pixels, 1),
        materials=(material,),
        thresholds_keV=nominal + bias - bias.mean(0),
        nominal_keV=nominal,
    )


def plates_of(truth: PixelModel, photons=1e10, seed=None) -> CalibrationSet:
    edges_keV = (*truth.nominal_keV.tolist(), 149.0)
    return measured_plates(truth, cdte_scanner(edges_keV), PLATES_CM, ("aluminium",), photons, seed)
