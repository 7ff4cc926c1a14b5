"""The job of calibrate.py: a pixel model from a plate file, with a report on every pixel."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.base import Calibrator
from pcctlearn.calibration.beam_hardening import beam_hardening, spectra_above
from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.pixel_model_file import write_pixel_model
from pcctlearn.calibration.plate_file import PlateRecord, read_plates
from pcctlearn.calibration.stored import digest_of_file
from pcctlearn.metrics.errors import Rows, rms
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import above_from_bins, bins_from_above
from pcctlearn.runs.context import Context
from pcctlearn.runs.folder import MARKER, OUTPUTS
from pcctlearn.runs.results import StudyResults

FILE = "pixel_model.h5"
_MOST_LISTED = 12  # flagged pixels of a kind

Numbers = dict[str, float]
Lines = Float[Tensor, "exposure pixel threshold"]
Spreads = Float[Tensor, "exposure threshold"]


class PlateCalibration:
    """Calibrate the pixels of a detector from a plate file.

    Writes ``pixel_model.h5``, and a report: gain, skew and threshold bias of every pixel with error
    bars, flagged pixels, residuals behind each plate, and how much the projections of a water slab
    would differ between pixels before and after the correction.

    Args:
        counts: a plate file (docs/plate_file.md).
        calibrator: the method; it must find a pixel model.
        water_cm: thickness of the slab.
        seed: of the noise of the repeated measurement.
    """

    def __init__(
        self, counts: str | None, calibrator: Calibrator, water_cm: float = 20.0, seed: int = 0
    ) -> None:
        if counts is None:
            raise ValueError(
                "counts needs a value: counts=FILE.h5 (docs/plate_file.md), for instance from "
                "python simulate.py datasets=plates"
            )
        if not 0 < water_cm <= 40:
            raise ValueError(f"water_cm must be above 0 and at most 40, got {water_cm:g}")
        self.path, self.calibrator = Path(counts), calibrator
        self.water_cm, self.seed = water_cm, seed
        self.record = read_plates(self.path)

    def run(self, context: Context) -> StudyResults:
        """Calibrate, write the pixel model, and report."""
        record, nominal = self.record, self.record.nominal_model()
        found = self._fit(record.plates, nominal)
        redrawn = self._fit(_redrawn(record.plates, nominal, found, self.seed), nominal)
        provenance = {
            "name": record.name or self.path.stem,
            "plates": self.path.name,
            "plates_sha256": digest_of_file(self.path),
            "config": context.config,
            "software": "pcctlearn",
        }
        context.begin((MARKER, FILE, *OUTPUTS[1:]))
        write_pixel_model(context.folder / FILE, replace(found, provenance=provenance))
        good = found.calibrated & redrawn.calibrated
        before, after = self._slab(nominal, found, redrawn, good)
        residuals = {k: _spread(k, v) for k, v in _residuals(record.plates, nominal, found).items()}
        keV = record.plates.thresholds_keV.tolist()
        numbers = _numbers(found) | _truth_errors(record, found)
        for index, threshold in enumerate(keV):
            numbers[f"slab_before_sd_{threshold:g}keV"] = before[..., index].std().item()
            numbers[f"slab_after_sd_{threshold:g}keV"] = after[..., index].std().item()
        return StudyResults(
            numbers=numbers,
            arrays=_arrays(found, residuals, before, after, record),
            figures=["plates.pixels", "plates.residuals", "plates.slab"],
            summary=self._summary(found, context.folder / FILE),
            tables=[_residual_table(record.plates, residuals)],
        )

    def _fit(self, plates: CalibrationSet, nominal: SpectralModel) -> PixelModel:
        found = self.calibrator.fit(plates, nominal)
        if not isinstance(found, PixelModel):
            raise ValueError(
                f"{type(self.calibrator).__name__} corrects projections and finds no gain, skew "
                "and thresholds to be written: use calibration=etb"
            )
        return found

    def _slab(
        self,
        nominal: SpectralModel,
        found: PixelModel,
        redrawn: PixelModel,
        good: Bool[Tensor, "*pixel"],
    ) -> tuple[Float[Tensor, "pixel threshold"], Float[Tensor, "pixel threshold"]]:
        """Errors of the slab's projections, corrected as if all pixels were nominal, and by pixel.

        The pixels are those that were found. The calibration of a second measurement of them, which
        differs by its noise, corrects them; else the correction would be judged by itself.
        """
        water = linear_attenuation(["water"], nominal.energies_keV)[0]
        above = found.spectra_above(nominal)[good]
        measured = -((above @ torch.exp(-self.water_cm * water)) / above.sum(-1)).log()
        same = beam_hardening(spectra_above(nominal), nominal)
        own = beam_hardening(redrawn.spectra_above(nominal)[good], nominal)
        true = self.water_cm * own.water_per_cm
        return same(measured) - true, own(measured) - true

    def _summary(self, found: PixelModel, path: Path) -> str:
        n_flagged = int((~found.calibrated).sum())
        words = [
            f"{found.gain.numel()} pixels, {len(self.record.plates.counts)} exposures; wrote "
            f"{path}. {n_flagged} pixels are flagged and treated as nominal."
        ]
        for kind, flagged in found.flags.items():
            if places := flagged.nonzero().tolist():
                listed = ", ".join(str(tuple(place)) for place in places[:_MOST_LISTED])
                more = " …" if len(places) > _MOST_LISTED else ""
                words.append(f"{len(places)} {kind}: {listed}{more}.")
        if found.gauge == "relative":
            words.append(
                "Skew and bias that all pixels share are not determined, because counts were "
                "divided by their sum over the pixels."
            )
        words.append(
            f"slab_before_sd and slab_after_sd: standard deviation over the pixels of the "
            f"projection of {self.water_cm:g} cm of water, corrected as if all pixels were "
            "nominal, and by a calibration of a second, simulated measurement of the pixels found."
        )
        return " ".join(words)


@torch.no_grad()
def _redrawn(
    plates: CalibrationSet, nominal: SpectralModel, found: PixelModel, seed: int
) -> CalibrationSet:
    """A second measurement of the pixels that were found, with noise of its own."""
    expected = _expected(plates, nominal, found)
    bins = draw_counts(bins_from_above(expected), torch.Generator().manual_seed(seed))
    counts = torch.where(found.calibrated[..., None], above_from_bins(bins), plates.counts)
    return replace(plates, counts=counts)


@torch.no_grad()
def _expected(
    plates: CalibrationSet, nominal: SpectralModel, pixels: PixelModel
) -> Float[Tensor, "exposure *pixel threshold"]:
    """Predicted counts, scaled in each exposure to the lowest threshold of the median pixel."""
    above = pixels.spectra_above(nominal)
    expected = torch.einsum("...te,me->m...t", above, plates.transmission(nominal.energies_keV))
    good = pixels.calibrated
    lowest = (plates.counts[:, good] / expected[:, good])[..., 0].median(-1).values
    return expected * lowest.reshape(-1, *[1] * (expected.ndim - 1))


def _residuals(
    plates: CalibrationSet, nominal: SpectralModel, found: PixelModel
) -> dict[str, Lines]:
    """ln(measured / predicted) of calibrated pixels: as nominal ones, as found, and its noise.

    Nominal pixels are scaled to their own counts behind the thinnest plates, as by a flat field.
    """
    good = found.calibrated
    as_nominal = PixelModel.known(
        found.gain, 0 * found.thickness_cm, found.materials,
        found.nominal_keV.expand_as(found.thresholds_keV), found.nominal_keV,
    )  # fmt: skip
    measured = plates.counts[:, good].log()
    residuals = {
        kind: measured - _expected(plates, nominal, pixels)[:, good].log()
        for kind, pixels in (("nominal", as_nominal), ("calibrated", found))
    }
    thinnest = int(plates.plates_cm.sum(-1).argmin())
    residuals["nominal"] = residuals["nominal"] - residuals["nominal"][thinnest]
    return residuals | {"noise": plates.counts[:, good].rsqrt()}


def _spread(kind: str, values: Lines) -> Spreads:
    """Standard deviation over the pixels; of the noise, what it is expected to be."""
    return values.square().mean(1).sqrt() if kind == "noise" else values.std(1)


def _residual_table(plates: CalibrationSet, residuals: Mapping[str, Spreads]) -> Rows:
    """A row for each threshold and exposure."""
    rows = [
        [f"{plates.named(m)}, above {keV:g} keV", *(f"{v[m, j]:.2g}" for v in residuals.values())]
        for j, keV in enumerate(plates.thresholds_keV.tolist())
        for m in range(len(plates.counts))
    ]
    return Rows(
        "standard deviation over the pixels of ln(measured counts / predicted counts)",
        ["plates", "nominal pixels, flat field", "calibrated pixels", "expected noise"],
        rows,
    )


def _numbers(found: PixelModel) -> Numbers:
    good = found.calibrated
    bias = (found.thresholds_keV - found.nominal_keV)[good]
    numbers = {
        "n_pixels": float(good.numel()),
        "uncalibrated_pixels": float((~good).sum()),
        "gain_sd_percent": 100 * found.gain[good].std().item(),
    }
    for index, material in enumerate(found.materials):
        skew, sd = (10 * v[good][:, index] for v in (found.thickness_cm, found.thickness_sd_cm))
        numbers[f"skew_mean_mm.{material}"] = skew.mean().item()
        numbers[f"skew_sd_mm.{material}"] = skew.std().item()
        numbers[f"skew_standard_error_mm.{material}"] = sd.median().item()
    for index, keV in enumerate(found.nominal_keV.tolist()):
        if index > 0:
            numbers[f"bias_mean_keV.{keV:g}keV"] = bias[:, index].mean().item()
            numbers[f"bias_sd_keV.{keV:g}keV"] = bias[:, index].std().item()
            error = found.threshold_sd_keV[good][:, index].median().item()
            numbers[f"bias_standard_error_keV.{keV:g}keV"] = error
    return numbers


def _truth_errors(record: PlateRecord, found: PixelModel) -> Numbers:
    """RMS errors, where the file holds the true detector."""
    numbers, good = {}, found.calibrated
    if record.true_thresholds_keV is not None:
        error = (found.thresholds_keV - record.true_thresholds_keV)[good][:, 1:]
        numbers["threshold_error_rms_keV"] = rms(error)
    if record.skew_cm is not None and record.filter_materials == found.materials:
        error = found.thickness_cm - record.skew_cm.movedim(0, -1)
        numbers["skew_error_rms_mm"] = rms(10 * error[good])
    return numbers


def _arrays(
    found: PixelModel,
    residuals: dict[str, Spreads],
    before: Tensor,
    after: Tensor,
    record: PlateRecord,
) -> dict[str, Tensor | np.ndarray]:
    arrays: dict[str, Tensor | np.ndarray] = {
        "gain": found.gain,
        "skew_mm": 10 * found.thickness_cm[..., 0],
        "skew_sd_mm": 10 * found.thickness_sd_cm[..., 0],
        "bias_keV": found.thresholds_keV - found.nominal_keV,
        "bias_sd_keV": found.threshold_sd_keV,
        "nominal_keV": found.nominal_keV,
        "calibrated": found.calibrated,
        "plates_cm": record.plates.plates_cm.sum(-1),
        "slab/before": before,
        "slab/after": after,
    }
    return arrays | {f"residuals/{kind}": values for kind, values in residuals.items()}
