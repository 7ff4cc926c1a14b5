"""The job of calibrate.py for a whole detector: pixels, dead times and scatter, with a report."""

import logging
from dataclasses import replace
from pathlib import Path

from pcctlearn.calibration.dead_time_file import write_dead_times
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.pixel_model_file import write_pixel_model
from pcctlearn.calibration.stored import digest_of_file
from pcctlearn.calibration.whole_detector import WholeDetector, WholeDetectorModel
from pcctlearn.evaluation.unpiled import unpiled
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.context import Context
from pcctlearn.runs.folder import MARKER, OUTPUTS
from pcctlearn.runs.results import StudyResults
from pcctlearn.scans.file import read_scan
from pcctlearn.scans.record import ScanRecord
from pcctlearn.studies.detector_calibration import (
    flags_in_words,
    naming,
    numbers_of_pixels,
    pixel_arrays,
)
from pcctlearn.studies.known_objects import KnownPhantom, read_known_objects
from pcctlearn.studies.whole_detector_report import (
    information_rows,
    information_sentences,
    shared_numbers,
)

log = logging.getLogger(__name__)

PIXELS, DEAD_TIMES = "pixel_model.h5", "dead_times.h5"
_MOST_DRIFT = 0.02  # of the exposures of the views


class WholeDetectorCalibration:
    """Calibrate pixels, dead times and the amplitude of the scatter from one phantom scan.

    Writes ``pixel_model.h5`` and ``dead_times.h5``, and a report with what the counts cannot tell
    apart.

    Args:
        counts: a scan file with the line integrals of the phantom (docs/scan_file.md).
        calibrator: the fit.
    """

    def __init__(self, counts: str | None, calibrator: WholeDetector) -> None:
        if counts is None:
            raise ValueError(
                "counts needs a value: counts=SCAN.h5, the scan of a known phantom "
                "(docs/scan_file.md)"
            )
        self.path, self.calibrator = Path(counts), calibrator
        with naming(self.path):
            phantom = read_known_objects(self.path, also=("scatter",))
            if not isinstance(phantom, KnownPhantom):
                raise ValueError(
                    "this is a plate file, calibration=whole_detector needs the scan of a known "
                    "phantom: use calibration=hybrid"
                )
            _require_equal_exposures(self.path)
        self.phantom = phantom

    def run(self, context: Context) -> StudyResults:
        """Fit, write both files, and report."""
        scan = self.phantom.measured
        with naming(self.path):
            nominal = self.phantom.nominal_model()
            found = self.calibrator.fit(scan, nominal)
        primary = self._primary(found, nominal)
        residuals = primary.residuals(nominal, found.pixels)
        context.begin((MARKER, PIXELS, DEAD_TIMES, *OUTPUTS[1:]))
        provenance = {"config": context.config, "software": "pcctlearn"}
        digest = digest_of_file(self.path)
        pixels = replace(
            found.pixels,
            provenance={
                "name": scan.name or self.path.stem,
                "plates": self.path.name,
                "plates_sha256": digest,
                **provenance,
            },
        )
        write_pixel_model(context.folder / PIXELS, pixels)
        series = {"series": self.path.name, "series_sha256": digest}
        write_dead_times(context.folder / DEAD_TIMES, found.dead_times, **series, **provenance)
        arrays = pixel_arrays(pixels) | {"depths": primary.depths()}
        arrays |= {f"residuals/{kind}": values for kind, values in residuals.items()}
        return StudyResults(
            numbers=numbers_of_pixels(pixels)
            | shared_numbers(found)
            | primary.truth_errors(pixels),
            arrays=arrays,
            figures=["plates.pixels", primary.figure],
            summary=self._summary(found, pixels, context.folder),
            tables=[information_rows(found), primary.table(residuals)],
        )

    def _primary(self, found: WholeDetectorModel, nominal: SpectralModel) -> KnownPhantom:
        """The scan, corrected for pile-up and scatter."""
        scan, _ = unpiled(
            self.path, self.phantom.measured, found.dead_times, found.counts.rays.view_s
        )
        if found.amplitude is None:
            return KnownPhantom(scan)
        air = nominal.air().detach().float().reshape(-1, *[1] * (scan.at("counts").ndim - 1))
        scatter = found.amplitude * scan.at("scatter") * (scan.air[:, None] / air)
        corrected: ScanRecord = replace(scan, counts=(scan.at("counts") - scatter).clamp(min=0.5))
        return KnownPhantom(corrected)

    def _summary(self, found: WholeDetectorModel, pixels: PixelModel, folder: Path) -> str:
        dead = found.dead_times
        total = 1e9 * (dead.paralysable_s + dead.nonparalysable_s)
        times = ", ".join(
            f"{ns:.3g} ns above {keV:g} keV"
            for ns, keV in zip(total.tolist(), dead.thresholds_keV.tolist(), strict=True)
        )
        words = [
            *flags_in_words(pixels, folder / PIXELS),
            f"Dead times, paralysable and nonparalysable together: {times}; wrote "
            f"{folder / DEAD_TIMES}.",
        ]
        if found.amplitude is None:
            words.append("The scan holds no scatter, so that none was fitted.")
        else:
            words.append(
                f"Amplitude of the scatter, relative to that of the file: {found.amplitude:.4g} "
                f"± {found.amplitude_sd:.1g}."
            )
        if not found.held:
            words.append("What the counts hardly tell apart, one standard deviation each:")
        return " ".join([*words, *information_sentences(found)])


def _require_equal_exposures(path: Path) -> None:
    """Raise ValueError if the tube drifted: pile-up depends on the rate of every view."""
    exposure = read_scan(path, only=("counts",)).exposure
    if exposure is None:
        return
    spread = float(exposure.max() / exposure.min() - 1)
    if spread > _MOST_DRIFT:
        raise ValueError(
            f"the exposures of the views differ by {100 * spread:.3g} %, and pile-up depends on "
            f"the rate of each: scan at a constant tube current (within {100 * _MOST_DRIFT:g} %), "
            "or find dead times with calibration=dead_times and pixels with calibration=hybrid"
        )
