"""Errors of any calibration of a detector that is known."""

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.base import PixelCalibration, Projections
from pcctlearn.calibration.direct_inversion import ThresholdModels
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.sfr import SfrCalibration, straightened
from pcctlearn.calibration.water_slab import SlabScale
from pcctlearn.decomposition.beam_hardening import spectra_above
from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.metrics.errors import rms
from pcctlearn.physics.attenuation import attenuation_table, density_g_cm3, linear_attenuation
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import bins_from_above

BASIS = ("water", "aluminium")
WATER_CM = 20.0  # behind which projections are compared
HELD_OUT_CM = ((20.0, 0.0), (15.0, 1.0), (10.0, 0.0), (25.0, 0.5))  # water, aluminium

Numbers = dict[str, float]
Above = Float[Tensor, "pixel threshold energy"]


class KnownDetector:
    """A detector that is known, and its counts without noise behind objects of the scores.

    Args:
        truth: its pixels.
        tube: the scanner with its spectrum.
    """

    def __init__(self, truth: PixelModel, tube: SpectralModel) -> None:
        self.truth, self.tube = truth, tube
        above = truth.spectra_above(tube)
        table = attenuation_table(BASIS, tube.energies_keV)
        density = torch.tensor([density_g_cm3(name) for name in BASIS], dtype=torch.float64)
        self.known = torch.tensor(HELD_OUT_CM, dtype=torch.float64) * density
        self.held_out = _projections(above, torch.exp(-self.known @ table))
        water = linear_attenuation(["water"], tube.energies_keV)
        self.water = _projections(above, torch.exp(-WATER_CM * water))[0]

    def scores(self, found: PixelCalibration, nominal: SpectralModel) -> Numbers:
        """Errors of the calibrated pixels; a threshold that is nominal in truth has none.

        "threshold_…": standard deviation and mean over the pixels. "projection_…": of projections
        of 20 cm of water, corrected for beam hardening. "water_rms_mm", "aluminium_rms_mm": of the
        decomposition of lengths that no plate had, with the air of each pixel as in a scan;
        ``failed_rays`` are those without a solution.
        """
        good = found.calibrated
        numbers: Numbers = {"uncalibrated_pixels": float((~good).sum())}
        keV = self.truth.nominal_keV.tolist()
        if isinstance(found, PixelModel | ThresholdModels):
            error = (found.thresholds_keV - self.truth.thresholds_keV)[good]
            for j, name in enumerate(keV):
                if (self.truth.thresholds_keV[:, j] != name).any():
                    numbers[f"threshold_sd_keV_{name:g}"] = error[:, j].std().item()
                    numbers[f"threshold_mean_keV_{name:g}"] = error[:, j].mean().item()
        correct = found.correction(nominal)
        error = (correct(self.water) - WATER_CM * correct.water_per_cm)[good]
        for j, name in enumerate(keV):
            numbers[f"projection_sd_{name:g}"] = error[:, j].std().item()
            numbers[f"projection_mean_{name:g}"] = error[:, j].mean().item()
        return numbers | self._decomposed(found, nominal)

    def _decomposed(self, found: PixelCalibration, nominal: SpectralModel) -> Numbers:
        above, mapped = _as_spectra(found, nominal, self.held_out)
        counts = bins_from_above(above.sum(-1) * torch.exp(-mapped))
        start = self.known[:, None].expand(-1, counts.shape[1], -1)
        table = attenuation_table(BASIS, nominal.energies_keV)
        spectra = bins_from_above(above, dim=-2)
        sound = found.calibrated & (counts > 0).all(-1).all(0) & (spectra >= 0).flatten(1).all(-1)
        solution = decompose(counts[:, sound], spectra[sound], table, start=start[:, sound])
        error = (solution.x - start[:, sound])[solution.converged]
        n_failed = int(found.calibrated.sum()) * len(counts) - len(error)
        numbers = {"failed_rays": float(n_failed)}
        for column, name in enumerate(BASIS):
            mm = 10 * error[:, column] / density_g_cm3(name)
            numbers[f"{name}_rms_mm"] = rms(mm) if len(mm) else float("nan")
        return numbers


def _projections(
    above: Above, transmission: Float[Tensor, "object energy"]
) -> Float[Tensor, "object pixel threshold"]:
    """−ln of the transmission of each object in counts above each threshold."""
    counts = torch.einsum("pte,oe->opt", above, transmission)
    return -(counts / above.sum(-1)).log()


def _as_spectra(
    found: PixelCalibration, nominal: SpectralModel, projections: Projections
) -> tuple[Above, Projections]:
    """Spectra above the thresholds, and the projections that are those of these spectra."""
    if isinstance(found, SfrCalibration):
        return found.spectra, straightened(projections, found.flux)
    if isinstance(found, SlabScale):
        return spectra_above(nominal).expand(len(found.scale), -1, -1), found.scale * projections
    assert isinstance(found, PixelModel | ThresholdModels)
    return found.spectra_above(nominal), projections
