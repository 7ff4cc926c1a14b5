"""Small scatter kernels, and the scatter of a few pixels summed by hand."""

import math

import torch

from pcctlearn.physics.response.simple import Ideal
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.scatter.kernel_parameters import KERNEL, KernelParameters
from pcctlearn.tomography.geometry.cone import ConeBeam

VALUES = {  # two bins and two groups: A, α, β, σ1, B, σ2
    "amplitude_per_cm2": [[2e-3, 1.5e-3], [3e-3, 2.5e-3]],
    "alpha": [[0.1, -0.1], [-0.05, 0.0]],
    "beta": [[0.8, 0.9], [1.1, 1.0]],
    "sigma1_cm": [[2.0, 2.5], [1.5, 2.0]],
    "share": [[0.5, 0.6], [0.3, 0.4]],
    "sigma2_cm": [[8.0, 9.0], [7.0, 8.0]],
    "residual": [[0.0, 0.0], [0.0, 0.0]],
}


def kernels(**changes):
    """Kernels of two bins; water attenuates the lower bin slightly more than the higher one."""
    tensors = {name: torch.tensor(VALUES[name], dtype=torch.float64) for name in KERNEL}
    settings = {
        **tensors,
        "water_rates": torch.tensor([1.0, 1.5], dtype=torch.float64),
        "water_weights": torch.tensor([[0.3, 0.7], [1.0, 0.0]], dtype=torch.float64),
        "borders_cm": [6.0],
        "water_per_cm": 0.2,
        "source_to_detector_cm": 110.0,
        "passport": {"seed": "0"},
    }
    return KernelParameters(**{**settings, **changes})


def panel(n_rows=4, n_columns=5, pixel_cm=1.0, **settings):
    """A cone beam with this panel; offsets move the central ray from its center."""
    return ConeBeam(4, n_rows, n_columns, pixel_cm, 60.0, 110.0, **settings)


def model_with(air):
    """A model with air counts ``air`` (bin, *pixel) and one energy per bin."""
    n_bins = len(air)
    edges = 20.0 + 10 * torch.arange(n_bins + 1, dtype=torch.float64)
    fluence, attenuation = air.double().movedim(0, -1), torch.ones(1, n_bins).double()
    return SpectralModel(edges[:-1], fluence, Sharp(), Thresholds(edges), attenuation)


class Sharp(Ideal):
    """Every photon is registered at its own energy, the lower edge of a bin."""

    def above(self, edges_keV, energies_keV):
        return (energies_keV >= edges_keV[..., None]).to(energies_keV)


def summed_by_hand(primary, pixel_cm, gamma_per_cm=0.0):
    """S (bin, row, column) of one view, pixel by pixel, without edge weights."""
    n_rows, n_columns = primary.shape
    places = [
        (i, j, (i - (n_rows - 1) / 2) * pixel_cm[0], (j - (n_columns - 1) / 2) * pixel_cm[1])
        for i in range(n_rows)
        for j in range(n_columns)
    ]
    scatter = torch.zeros(2, n_rows, n_columns)
    for b in range(2):
        for i, j, y, x in places:
            thickness_cm = -math.log(primary[i, j]) / 0.2
            for k, m, v, u in places:
                p = primary[k, m].item()
                depth = -math.log(p)
                source_cm = depth / 0.2
                second = min(max((source_cm - 6.0) / 2.0 + 0.5, 0.0), 1.0)
                squared = (x - u) ** 2 + (y - v) ** 2
                flux = (1 + (u**2 + v**2) / 110.0**2) ** -1.5
                for group, part in enumerate((1 - second, second)):
                    A, alpha, beta, s1, B, s2 = (VALUES[name][b][group] for name in KERNEL[:-1])
                    c = A * p**alpha * depth * (depth + 1e-3) ** (beta - 1)
                    g = math.exp(-squared / (2 * s1**2)) + B * math.exp(-squared / (2 * s2**2))
                    weight = 1 - gamma_per_cm * thickness_cm + gamma_per_cm * source_cm
                    scatter[b, i, j] += weight * p * flux * part * c * g
            scatter[b, i, j] *= pixel_cm[0] * pixel_cm[1] * (1 + (x**2 + y**2) / 110.0**2) ** 1.5
    return scatter
