"""ETB-Cal of simulated detectors, compared with their true skew and thresholds [2, Figs 5, 6]."""

from collections.abc import Mapping, Sequence
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.direct_inversion import DirectInversion, ThresholdModels
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.layer_slabs import LayerSlabs
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.metrics.errors import Rows, rms
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.simulation.plates import PHOTONS_WITHOUT_NOISE, measured_plates

_WATER_CM = 20.0  # behind which projections are predicted

Found = PixelModel | ThresholdModels
Numbers = dict[str, float]
Arrays = dict[str, Tensor | np.ndarray]


class EtbValidation:
    """Calibrate detectors of known flaws from plates, without noise and with it.

    Args:
        model: the nominal scanner; the lowest threshold is the reference.
        calibrations: {name: calibrator}.
        skews: {material: factor of the thickness}.
        errors: how pixels differ; their skew is that of each material in turn.
        aluminium_cm: plates.
        n_pixels: of the detector.
        photons: that reach a pixel in air, for the scores with noise.
        n_draws: of the noise.
        ridges: of direct inversion, which is scored with each of them; none to leave it out.
        seed: of flaws and noise.
    """

    def __init__(
        self,
        model: SpectralModel,
        calibrations: Mapping[str, EtbCal | LayerSlabs],
        skews: Mapping[str, float],
        errors: DetectorErrors,
        aluminium_cm: Sequence[float] = (0.0, 0.5, 1.0, 1.5, 2.0),
        n_pixels: int = 896,
        photons: float = 1e8,
        n_draws: int = 1,
        ridges: Sequence[float] = (),
        seed: int = 0,
    ) -> None:
        if n_draws < 1 or n_pixels < 2:
            raise ValueError(
                f"n_draws must be 1 or more and n_pixels 2 or more, got {n_draws} and {n_pixels}"
            )
        self.model, self.calibrations, self.skews = model, dict(calibrations), dict(skews)
        self.errors = errors
        self.plates_cm = torch.tensor(list(aluminium_cm), dtype=torch.float64)[:, None]
        self.n_pixels, self.photons, self.n_draws = n_pixels, photons, n_draws
        self.ridges, self.seed = tuple(ridges), seed

    def run(self, context: Context) -> StudyResults:
        """Make the detectors, calibrate them, and compare what was found with the truth."""
        numbers: Numbers = {}
        arrays: Arrays = {}
        for material, factor in self.skews.items():
            truth = self.truth(material, factor)
            arrays[f"{material}/true_thickness_cm"] = truth.thickness_cm
            arrays[f"{material}/true_thresholds_keV"] = truth.thresholds_keV
            for start, noisy in (("", False), ("noisy_", True)):
                plates = self._plates(truth, noisy)
                for name, calibrator in (self.calibrations | self._direct(material)).items():
                    began = perf_counter()
                    found = [calibrator.fit(draw, self.model) for draw in plates]
                    seconds = (perf_counter() - began) / len(plates)
                    scores = self._scores(truth, found, noisy) | {"seconds": seconds}
                    numbers |= {f"{start}{k}.{name}.{material}": v for k, v in scores.items()}
                    if name in self.calibrations:
                        where = f"{material}/{start}{name}"
                        arrays[f"{where}_thickness_cm"] = found[0].thickness_cm
                        arrays[f"{where}_thresholds_keV"] = found[0].thresholds_keV
        return StudyResults(
            numbers=numbers,
            arrays=arrays,
            figures=["etb.pixels", "etb.threshold_errors"],
            summary=(
                f"{self.n_pixels} pixels, {len(self.plates_cm)} exposures. With noise: "
                f"{self.n_draws} draw(s) of {self.photons:g} photons a pixel in air."
            ),
            tables=[self._table(numbers, start) for start in ("", "noisy_")],
            tabulated=numbers,
        )

    def truth(self, material: str, factor: float) -> PixelModel:
        """The detector whose skew is one of this material."""
        nominal = self.model.thresholds.edges_keV.detach()[:-1]
        return self.errors.pixels(nominal, self.n_pixels, self.seed, material, factor)

    def _plates(self, truth: PixelModel, noisy: bool) -> list[CalibrationSet]:
        draws = range(self.seed + 1, self.seed + 1 + self.n_draws) if noisy else [None]
        photons = self.photons if noisy else PHOTONS_WITHOUT_NOISE
        return [
            measured_plates(truth, self.model, self.plates_cm, ("aluminium",), photons, draw)
            for draw in draws
        ]

    def _scores(self, truth: PixelModel, found: Sequence[Found], noisy: bool) -> Numbers:
        threshold = torch.stack([f.thresholds_keV - truth.thresholds_keV for f in found])[..., 1:]
        scores = {
            "threshold_error_max_keV": threshold.abs().max().item(),
            "threshold_error_rms_keV": rms(threshold),
            "threshold_error_mean_keV": threshold.mean().item(),
            "uncalibrated_pixels": float(sum((~f.calibrated).sum().item() for f in found)),
        }
        uncorrected = self._projections(truth)
        lines = torch.stack([self._projections(f) for f in found]) - uncorrected
        for index, keV in enumerate(truth.nominal_keV.tolist()):
            scores[f"projection_error_sd_{keV:g}keV"] = lines[..., index].std().item()
            scores[f"projection_uncorrected_sd_{keV:g}keV"] = uncorrected[..., index].std().item()
        pixels = [f for f in found if isinstance(f, PixelModel)]  # others have no error bars
        if noisy and pixels:
            threshold_sd = torch.stack([f.threshold_sd_keV for f in pixels])[..., 1:]
            scores["threshold_coverage_percent"] = _within(threshold, threshold_sd)
        if pixels and pixels[0].materials == truth.materials:
            skew = 10 * torch.stack([f.thickness_cm - truth.thickness_cm for f in pixels])
            skew_sd = 10 * torch.stack([f.thickness_sd_cm for f in pixels])
            scores |= {
                "skew_error_max_mm": skew.abs().max().item(),
                "skew_error_sd_mm": skew.std().item(),
                "skew_error_mean_mm": skew.mean().item(),
            }
            if noisy:
                scores["skew_coverage_percent"] = _within(skew, skew_sd)
        return scores

    def _projections(self, pixels: Found) -> Float[Tensor, "pixel threshold"]:
        """−ln of the transmission of water in counts above each threshold."""
        energies = self.model.energies_keV
        water = torch.exp(-_WATER_CM * linear_attenuation(["water"], energies)[0])
        above = pixels.spectra_above(self.model)
        return -((above @ water) / above.sum(-1)).log()

    def _direct(self, material: str) -> dict[str, DirectInversion]:
        return {f"direct_{ridge:g}": DirectInversion([material], ridge) for ridge in self.ridges}

    def _table(self, numbers: Numbers, start: str) -> Rows:
        """Threshold and projection errors of each skew material and calibration."""
        nominal = self.model.thresholds.edges_keV.detach()[:-1].tolist()
        quantities = ["threshold_error_max_keV", "threshold_error_rms_keV"]
        projections = [f"projection_error_sd_{keV:g}keV" for keV in nominal]
        names = [*self.calibrations, *(f"direct_{ridge:g}" for ridge in self.ridges)]
        rows = []
        for material in self.skews:
            for name in names:
                keys = [f"{start}{q}.{name}.{material}" for q in (*quantities, *projections)]
                cells = [f"{numbers[key]:.2g}" if key in numbers else "" for key in keys]
                rows.append([f"{material}, {name}", *cells])
        return Rows(
            ("with" if start else "without") + " noise: errors of thresholds (keV), and standard "
            f"deviations of those of projections of {_WATER_CM:g} cm of water",
            ["skew, calibration", "largest", "RMS", *(f"above {keV:g} keV" for keV in nominal)],
            rows,
        )


def _within(error: Tensor, sd: Tensor) -> float:
    """Percentage of errors below one standard deviation; 68 where the error bars are right."""
    return 100 * (error.abs() < sd).double().mean().item()
