"""The job of calibrate.py: a pixel model with a report on every pixel."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.base import Calibrator
from pcctlearn.calibration.dead_time_file import read_dead_times
from pcctlearn.calibration.layer_phantom import LayerPhantom
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.pixel_model_file import write_pixel_model
from pcctlearn.calibration.self_calibration import SelfCalibration
from pcctlearn.calibration.stored import digest_of_file
from pcctlearn.console import without_warnings
from pcctlearn.decomposition.beam_hardening import beam_hardening, spectra_above
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.context import Context
from pcctlearn.runs.folder import MARKER, OUTPUTS
from pcctlearn.runs.results import StudyResults
from pcctlearn.studies.known_objects import KnownObjects, KnownPhantom, read_known_objects
from pcctlearn.studies.scanned_object import read_scanned_object

log = logging.getLogger(__name__)

FILE = "pixel_model.h5"
_MOST_LISTED = 12  # flagged pixels of a kind

Numbers = dict[str, float]


class DetectorCalibration:
    """Calibrate the pixels of a detector from a plate file, or from a scan.

    Writes ``pixel_model.h5``, and a report: gain, skew and threshold bias of every pixel with error
    bars, flagged pixels, residuals behind what was in the beam, and how much the projections of a
    water slab would differ between pixels before and after the correction.

    Args:
        counts: a plate file (docs/plate_file.md), or a scan file (docs/scan_file.md): with the line
            integrals of the phantom for ``LayerPhantom``, of any object for ``SelfCalibration``.
        calibrator: the method; its ``fit`` must be annotated to return a ``PixelModel``.
        water_cm: thickness of the slab.
        seed: of the noise of the repeated measurement.
        dead_times: a file of dead times (docs/dead_time.md), which the counts behind plates are
            corrected with first.
    """

    def __init__(
        self,
        counts: str | None,
        calibrator: Calibrator | LayerPhantom | SelfCalibration,
        water_cm: float = 20.0,
        seed: int = 0,
        dead_times: str | None = None,
    ) -> None:
        if get_type_hints(calibrator.fit).get("return") is not PixelModel:
            raise ValueError(
                f"calibration={_key(calibrator)} corrects projections and finds no pixel model: "
                "use calibration=etb, or see what it corrects with python train.py "
                "experiment=etb_abdomen"
            )
        if counts is None:
            raise ValueError(
                "counts needs a value: counts=FILE.h5 (docs/plate_file.md), for instance from "
                "python simulate.py datasets=plates"
            )
        if not 0 < water_cm <= 40:
            raise ValueError(f"water_cm must be above 0 and at most 40, got {water_cm:g}")
        self.path, self.calibrator = Path(counts), calibrator
        self.water_cm, self.seed = water_cm, seed
        of_counters = None if dead_times is None else read_dead_times(dead_times)
        self.objects: KnownObjects
        if isinstance(calibrator, SelfCalibration):
            with naming(self.path):
                self.objects = read_scanned_object(self.path, of_counters)
            return
        with naming(self.path):
            self.objects = read_known_objects(self.path, of_counters)
        if isinstance(calibrator, LayerPhantom) != isinstance(self.objects, KnownPhantom):
            raise ValueError(
                f"{counts} is a scan file: use calibration=layer_phantom if its line integrals are "
                "known, and else calibration=self_calibration"
                if isinstance(self.objects, KnownPhantom)
                else f"{counts} is a plate file, calibration=layer_phantom needs the scan of a "
                "known phantom: use calibration=layer_slabs"
            )

    def run(self, context: Context) -> StudyResults:
        """Calibrate, write the pixel model, and report."""
        objects = self.objects
        with naming(self.path):
            nominal = objects.nominal_model()
            found = self._fit(objects, nominal)
        provenance = {
            "name": objects.name or self.path.stem,
            "plates": self.path.name,
            "plates_sha256": digest_of_file(self.path),
            "config": context.config,
            "software": "pcctlearn",
        }
        context.begin((MARKER, FILE, *OUTPUTS[1:]))
        write_pixel_model(context.folder / FILE, replace(found, provenance=provenance))
        residuals = objects.residuals(nominal, found)
        slab, failed = self._slab(nominal, found)
        arrays = pixel_arrays(found) | {"depths": objects.depths()}
        arrays |= {f"residuals/{kind}": values for kind, values in residuals.items()}
        arrays |= {f"slab/{when}": errors for when, errors in slab.items()}
        numbers = (
            numbers_of_pixels(found)
            | objects.truth_errors(found)
            | _spreads(slab, found.nominal_keV)
        )
        doubts = tuple(self._doubts(slab, found.nominal_keV))
        for doubt in doubts:
            log.warning("%s", doubt)
        found = replace(found, warnings=found.warnings + doubts)
        figures = ["plates.pixels"]
        figures += [objects.figure] if "nominal" in residuals else []
        figures += ["plates.slab"] if slab else []
        return StudyResults(
            numbers=numbers,
            arrays=arrays,
            figures=figures,
            summary=self._summary(found, context.folder / FILE, failed),
            tables=[objects.table(residuals)],
        )

    def _fit(self, objects: KnownObjects, nominal: SpectralModel) -> PixelModel:
        calibrator: Any = self.calibrator
        found: PixelModel = calibrator.fit(objects.measured, nominal)
        return found

    def _slab(
        self, nominal: SpectralModel, found: PixelModel
    ) -> tuple[dict[str, Float[Tensor, "pixel threshold"]], str]:
        """Errors of the slab's projections, corrected as if all pixels were nominal, and by pixel.

        The pixels are those that were found. The calibration of a second measurement of them, which
        differs by its noise, corrects them; else the correction would be judged by itself. Without
        errors of two pixels or more, the text says why.
        """
        try:
            with without_warnings():  # about a simulated measurement
                redrawn = self._fit(self.objects.redrawn(nominal, found, self.seed), nominal)
        except (ValueError, torch.linalg.LinAlgError) as error:
            what = "a second, simulated measurement of its pixels"
            return {}, f"{what} cannot be calibrated ({error})"
        good = found.calibrated & redrawn.calibrated
        if int(good.sum()) < 2:
            return {}, f"{int(good.sum())} pixel(s) are calibrated, a comparison needs two"
        water = linear_attenuation(["water"], nominal.energies_keV)[0]
        above = found.spectra_above(nominal)[good]
        measured = -((above @ torch.exp(-self.water_cm * water)) / above.sum(-1)).log()
        same = beam_hardening(spectra_above(nominal), nominal)
        own = beam_hardening(redrawn.spectra_above(nominal)[good], nominal)
        true = self.water_cm * own.water_per_cm
        return {"before": same(measured) - true, "after": own(measured) - true}, ""

    def _doubts(self, slab: Mapping[str, Tensor], nominal_keV: Tensor) -> Iterator[str]:
        """A sentence about thresholds whose calibration adds as much noise as the pixels differ.

        Errors before are those of the pixels found, whose noise is that of the errors after.
        """
        if not slab:
            return
        useless = slab["after"].var(0) >= slab["before"].var(0) / 2
        if useless.any():
            thresholds = " and ".join(f"{keV:g}" for keV in nominal_keV[useless].tolist())
            yield (
                f"behind {self.water_cm:g} cm of water above {thresholds} keV the pixels differ by "
                "no more than the noise of their calibration, so that correcting them is no better "
                "than a flat field: expose longer, or correct them by a flat field alone"
            )

    def _summary(self, found: PixelModel, path: Path, failed: str) -> str:
        words = flags_in_words(found, path)
        if found.gauge == "relative":
            words.append(
                "Skew and bias that all pixels share are not determined, because counts were "
                "divided by their sum over the pixels."
            )
        words.append(
            f"The pixel model is complete, but its correction was not judged: {failed}."
            if failed
            else "slab_before_sd and slab_after_sd: standard deviation over the pixels of the "
            f"projection of {self.water_cm:g} cm of water, corrected as if all pixels were "
            "nominal, and by a calibration of a second, simulated measurement of the pixels found."
        )
        return " ".join(words)


def flags_in_words(found: PixelModel, path: Path) -> list[str]:
    """Pixels that were flagged, the file that was written, and warnings."""
    n_flagged = int((~found.calibrated).sum())
    words = [
        f"{found.gain.numel()} pixels, of which {n_flagged} flagged and treated as nominal; "
        f"wrote {path}."
    ]
    for kind, flagged in found.flags.items():
        if places := flagged.nonzero().tolist():
            listed = ", ".join(str(tuple(place)) for place in places[:_MOST_LISTED])
            more = " …" if len(places) > _MOST_LISTED else ""
            words.append(f"{len(places)} {kind}: {listed}{more}.")
    return words + [f"Warning: {warning}." for warning in found.warnings]


def _key(calibrator: object) -> str:
    """The name of a calibrator on the command line: that of its class, with underscores."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(calibrator).__name__).lower()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors in the contents of a file begin with its path."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        raise ValueError(text if str(path) in text else f"{path}: {text}") from None


def numbers_of_pixels(found: PixelModel) -> Numbers:
    """Means over the calibrated pixels, and standard deviations if there are two or more."""
    good = found.calibrated
    bias = (found.thresholds_keV - found.nominal_keV)[good]
    numbers = {
        "n_pixels": float(good.numel()),
        "uncalibrated_pixels": float((~good).sum()),
        **_sd("gain_sd_percent", 100 * found.gain[good]),
    }
    for index, material in enumerate(found.materials):
        skew, sd = (10 * v[good][:, index] for v in (found.thickness_cm, found.thickness_sd_cm))
        numbers[f"skew_mean_mm.{material}"] = skew.mean().item()
        numbers |= _sd(f"skew_sd_mm.{material}", skew)
        numbers[f"skew_standard_error_mm.{material}"] = sd.median().item()
    for index, keV in enumerate(found.nominal_keV.tolist()):
        if (
            index > 0 or bias[:, 0].any()
        ):  # the lowest is nominal unless calibration=hybrid moves it
            numbers[f"bias_mean_keV.{keV:g}keV"] = bias[:, index].mean().item()
            numbers |= _sd(f"bias_sd_keV.{keV:g}keV", bias[:, index])
            error = found.threshold_sd_keV[good][:, index].median().item()
            numbers[f"bias_standard_error_keV.{keV:g}keV"] = error
    return numbers


def _sd(name: str, values: Float[Tensor, "pixel"]) -> Numbers:
    return {name: values.std().item()} if len(values) > 1 else {}


def _spreads(slab: Mapping[str, Tensor], nominal_keV: Tensor) -> Numbers:
    return {
        f"slab_{when}_sd_{keV:g}keV": errors[:, index].std().item()
        for index, keV in enumerate(nominal_keV.tolist())
        for when, errors in slab.items()
    }


def pixel_arrays(found: PixelModel) -> dict[str, Tensor | np.ndarray]:
    """Maps of the pixels, with their standard deviations, for figures."""
    return {
        "gain": found.gain,
        "skew_mm": 10 * found.thickness_cm[..., 0],
        "skew_sd_mm": 10 * found.thickness_sd_cm[..., 0],
        "bias_keV": found.thresholds_keV - found.nominal_keV,
        "bias_sd_keV": found.threshold_sd_keV,
        "nominal_keV": found.nominal_keV,
        "calibrated": found.calibrated,
    }
