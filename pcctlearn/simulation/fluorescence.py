"""Sweeps of a threshold under the fluorescence of a metal powder."""

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.fluorescence import Settings, Sweep, k_lines
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.skew import skew_filter
from pcctlearn.physics.spectral_model import SpectralModel


@torch.no_grad()
def fluorescence_sweep(
    pixels: PixelModel,
    nominal: SpectralModel,
    metal: str,
    settings_keV: Settings,
    photons: Float[Tensor, "pixel"],
    scattered_share: float,
    index: int,
    seed: int | None,
) -> Sweep:
    """N(s) = F · Σ_E S(E) G(E, s + ΔT) at every setting s, where S are K lines and scatter.

    Each setting is an exposure with noise of its own. The bias ΔT of the threshold is the same at
    all settings. The skew F of a pixel changes the lines as it changes the beam.

    Args:
        pixels: the true detector.
        nominal: response, and spectrum of the tube.
        metal: symbol of the powder.
        settings_keV: nominal thresholds s.
        photons: of the K lines that reach each pixel in an exposure.
        scattered_share: photons that the powder scatters, with the spectrum of the tube, for each
            of its K lines.
        index: of the threshold.
        seed: of the noise; expected counts without one.
    """
    lines = k_lines(metal)
    T = settings_keV + (pixels.thresholds_keV - pixels.nominal_keV)[:, index, None]
    spectra = (
        (lines.energies_keV, lines.shares),
        (nominal.energies_keV, scattered_share * nominal.fluence / nominal.fluence.sum()),
    )
    counts = torch.zeros_like(T)
    for energies, shares in spectra:
        attenuation = linear_attenuation(pixels.materials, energies)
        passed = skew_filter(pixels.gain, pixels.thickness_cm, attenuation) * shares
        above = nominal.response.above(T, energies)
        counts += photons[:, None] * torch.einsum("pse,pe->ps", above, passed)
    return counts if seed is None else draw_counts(counts, torch.Generator().manual_seed(seed))
