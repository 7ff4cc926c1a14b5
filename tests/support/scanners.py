"""Spectral models for the tests of physics, solvers and decomposition."""

from collections.abc import Sequence
from pathlib import Path

from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.response.analytic import Analytic
from pcctlearn.physics.response.base import Response
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.thresholds import Thresholds

SPECTRA = Path(__file__).parents[2] / "data/physics/spectra"
FOUR_BINS = [15.0, 33.0, 45.0, 59.0, 120.0]
SIX_BINS = [15.0, 25.0, 33.2, 42.0, 50.3, 70.0, 120.0]  # edges at the K-edges of I and Gd


def silicon(learn: bool = False) -> Analytic:
    return Analytic("silicon", 6.0, sharing_keV=217.0, sharing_exponent=3.2, learn=learn)


def cadmium_telluride(learn: bool = False) -> Analytic:
    return Analytic(
        "CdTe",
        0.075,
        sharing_keV=65.0,
        sharing_exponent=1.2,
        fluorescence_escape=0.45,
        fluorescence_capture=1.0,
        learn=learn,
    )


def scanner(
    materials: Sequence[str] = ("water", "calcium"),
    edges_keV: Sequence[float] = FOUR_BINS,
    photons: float = 1e6,
    response: Response | None = None,
    every: int = 1,
    n_pixels: int | None = None,
) -> SpectralModel:
    """120 kV on deep silicon; ``every`` = 4 keeps every fourth energy, for finite differences."""
    tube = Spectrum(
        SPECTRA / "tungsten_120kV_12deg.csv", {"aluminium": 0.2}, photons_per_pixel=photons
    )
    energies, fluence = tube.energies_keV[::every].clone(), tube.fluence[::every] * every
    thresholds = Thresholds(edges_keV, n_pixels)
    table = attenuation_table(materials, energies)
    return SpectralModel(energies, fluence, response or silicon(), thresholds, table, materials)
