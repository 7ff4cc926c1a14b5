"""Threshold biases from fluorescence beside those of ETB-Cal and the true ones [2, Fig. 12]."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.fluorescence import FluorescenceBias, fluorescence_bias, k_lines
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.console import without_warnings
from pcctlearn.metrics.errors import Rows
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.simulation.fluorescence import fluorescence_sweep
from pcctlearn.studies.match_cases import Plates, plates_of
from pcctlearn.validation import require_positive

log = logging.getLogger(__name__)

_INDEX = 1  # the first threshold above the reference

Numbers = dict[str, float]


class EtbFluorescence:
    """Calibrate one threshold by fluorescence and by ETB-Cal, for several skews of all pixels.

    The powder lights the middle of the detector: photons fall to its ends as a Gaussian, so that
    few pixels have enough. A plate file cannot hold the sweep, whose exposures differ in their
    thresholds and not in their plates, and a sweep finds neither gain nor skew, so that
    fluorescence is no ``calibration=`` of calibrate.py.

    Args:
        model: the nominal scanner.
        calibrations: {name: ETB-Cal}.
        errors: how pixels differ.
        plates_cm: for ETB-Cal.
        metals: of the powders; the bias is interpolated between their lines.
        sweep_keV: first and last setting, in steps of 1 keV.
        common_skew_cm: skew that all pixels share, each a detector of its own.
        common_bias_keV: bias that all pixels share.
        n_pixels: of the row.
        photons: of the K lines at the brightest pixel in each exposure.
        spot_pixels: standard deviation of their fall over the row.
        scattered_share: photons that the powder scatters for each of its K lines.
        plate_photons: that reach a pixel in air in each exposure of the plates.
        max_sd_keV: standard error above which a pixel is starved.
        seed: of detector and noise.
    """

    def __init__(
        self,
        model: SpectralModel,
        calibrations: Mapping[str, EtbCal],
        errors: DetectorErrors,
        plates_cm: Plates,
        metals: Sequence[str] = ("W",),
        sweep_keV: Sequence[float] = (35.0, 85.0),
        common_skew_cm: Sequence[float] = (0.0,),
        common_bias_keV: float = 0.0,
        n_pixels: int = 896,
        photons: float = 1e4,
        spot_pixels: float = 80.0,
        scattered_share: float = 0.2,
        plate_photons: float = 1e8,
        max_sd_keV: float = 0.25,
        seed: int = 0,
    ) -> None:
        require_positive(
            n_pixels=n_pixels, photons=photons, spot_pixels=spot_pixels,
            plate_photons=plate_photons, max_sd_keV=max_sd_keV,
        )  # fmt: skip
        if not metals or not common_skew_cm:
            raise ValueError("metals and common_skew_cm must not be empty: give [W] and [0.0]")
        if len(sweep_keV) != 2 or sweep_keV[1] - sweep_keV[0] < 1 or scattered_share < 0:
            raise ValueError(
                "sweep_keV must be the first and the last setting, and scattered_share 0 or more, "
                f"got {list(sweep_keV)} and {scattered_share}: use study.sweep_keV=[35,85]"
            )
        for metal in metals:
            k_lines(metal)  # raises unless it has any
        self.model, self.calibrations, self.errors = model, dict(calibrations), errors
        self.plates_cm, self.metals = dict(plates_cm), tuple(metals)
        n_settings = int(sweep_keV[1] - sweep_keV[0]) + 1
        self.settings_keV = sweep_keV[0] + torch.arange(n_settings, dtype=torch.float64)
        self.common_skew_cm, self.common_bias_keV = tuple(common_skew_cm), common_bias_keV
        self.n_pixels, self.photons, self.spot_pixels = n_pixels, photons, spot_pixels
        self.scattered_share, self.plate_photons = scattered_share, plate_photons
        self.max_sd_keV, self.seed = max_sd_keV, seed

    def run(self, context: Context) -> StudyResults:
        """Sweep and calibrate each detector, and compare."""
        numbers: Numbers = {}
        arrays: dict[str, Tensor | np.ndarray] = {}
        for skew_cm in self.common_skew_cm:
            label = f"{10 * skew_cm:g}mm"
            log.info("a common skew of %s", label)
            truth = self.truth(skew_cm)
            true = self._bias(truth)
            sweep = self.fluorescence(truth)
            found = {"fluorescence": sweep.bias_keV}
            plates = plates_of(truth, self.model, self.plates_cm, self.plate_photons, self.seed + 1)
            with without_warnings():
                for name, calibrator in self.calibrations.items():
                    found[name] = self._bias(calibrator.fit(plates, self.model))
            numbers[f"usable_percent.{label}"] = 100 * sweep.usable.double().mean().item()
            for name, bias in found.items():
                numbers |= _scores(f"{name}.{label}", bias, true, sweep.usable)
                arrays[f"bias_{label}/{name}"] = bias
            etb = found[next(iter(self.calibrations))]
            numbers |= _against(f"fluorescence_and_etb.{label}", sweep.bias_keV, etb, sweep.usable)
            arrays |= {f"bias_{label}/true": true, f"usable/{label}": sweep.usable}
        return StudyResults(
            numbers=numbers,
            arrays=arrays,
            figures=["etb_fluorescence.biases"],
            summary=(
                f"{self.n_pixels} pixels, sweep of {len(self.settings_keV)} settings over lines of "
                f"{', '.join(self.metals)}. Offsets and standard deviations of errors are those of "
                "the usable pixels; those of all pixels include starved ones, which have the bias "
                "of the nearest usable pixel."
            ),
            tables=[self._table(numbers)],
            tabulated=numbers,
        )

    def truth(self, common_skew_cm: float) -> PixelModel:
        """The detector, with a skew and a bias that all pixels share."""
        nominal = self.model.thresholds.edges_keV.detach()[:-1]
        pixels = self.errors.pixels(nominal, self.n_pixels, self.seed)
        T = pixels.thresholds_keV.clone()
        T[:, _INDEX] += self.common_bias_keV
        thickness = pixels.thickness_cm + common_skew_cm
        return replace(pixels, thickness_cm=thickness, thresholds_keV=T)

    def fluorescence(self, truth: PixelModel) -> FluorescenceBias:
        """Biases from a sweep of every metal."""
        place = torch.arange(self.n_pixels) - (self.n_pixels - 1) / 2
        photons = self.photons * torch.exp(-(place.double() / self.spot_pixels).square() / 2)
        sweeps = {
            metal: fluorescence_sweep(
                truth, self.model, metal, self.settings_keV, photons, self.scattered_share,
                _INDEX, self.seed + 2 + number,
            )
            for number, metal in enumerate(self.metals)
        }  # fmt: skip
        nominal_keV = float(truth.nominal_keV[_INDEX])
        return fluorescence_bias(sweeps, self.settings_keV, nominal_keV, self.max_sd_keV)

    def _bias(self, pixels: PixelModel) -> Float[Tensor, "pixel"]:
        return (pixels.thresholds_keV - pixels.nominal_keV)[:, _INDEX]

    def _table(self, numbers: Numbers) -> Rows:
        rows = []
        for skew_cm in self.common_skew_cm:
            label = f"{10 * skew_cm:g}mm"
            for name in ("fluorescence", *self.calibrations):
                keys = ("offset_keV", "error_sd_keV", "error_sd_all_keV", "correlation_with_truth")
                cells = [f"{numbers[f'{key}.{name}.{label}']:.3g}" for key in keys]
                rows.append([f"{10 * skew_cm:g} mm, {name}", *cells])
        return Rows(
            "errors of the bias of one threshold",
            ["common skew, method", "offset (keV)", "sd (keV)", "sd, all pixels", "correlation"],
            rows,
        )


def _scores(
    name: str, bias: Float[Tensor, "pixel"], true: Float[Tensor, "pixel"], usable: Tensor
) -> Numbers:
    error = bias - true
    return {
        f"offset_keV.{name}": error[usable].mean().item(),
        f"error_sd_keV.{name}": error[usable].std().item(),
        f"error_sd_all_keV.{name}": error.std().item(),
        f"correlation_with_truth.{name}": _correlation(bias[usable], true[usable]),
    }


def _against(
    name: str, first: Float[Tensor, "pixel"], second: Float[Tensor, "pixel"], usable: Tensor
) -> Numbers:
    return {
        f"offset_keV.{name}": (first - second)[usable].mean().item(),
        f"correlation.{name}": _correlation(first[usable], second[usable]),
        f"correlation_all.{name}": _correlation(first, second),
    }


def _correlation(first: Float[Tensor, "pixel"], second: Float[Tensor, "pixel"]) -> float:
    return torch.corrcoef(torch.stack([first, second]))[0, 1].item()
