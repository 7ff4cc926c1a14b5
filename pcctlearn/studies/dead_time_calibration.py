"""The job of calibrate.py for dead times: their file, with a report on the curves."""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from pcctlearn.calibration.base import Calibrator
from pcctlearn.calibration.dead_time_file import read_series, write_dead_times
from pcctlearn.calibration.dead_times import CurrentSeries, DeadTimeFit, DeadTimes
from pcctlearn.calibration.layer_phantom import LayerPhantom
from pcctlearn.calibration.self_calibration import SelfCalibration
from pcctlearn.calibration.stored import digest_of_file
from pcctlearn.calibration.whole_detector import WholeDetector
from pcctlearn.metrics.errors import Rows
from pcctlearn.runs.context import Context
from pcctlearn.runs.folder import MARKER, OUTPUTS
from pcctlearn.runs.results import StudyResults
from pcctlearn.studies.detector_calibration import DetectorCalibration
from pcctlearn.studies.whole_detector_calibration import WholeDetectorCalibration

log = logging.getLogger(__name__)

FILE = "dead_times.h5"
_MOST_LISTED = 12  # pixels
_LARGE_MISFIT = 10.0  # of a curve that the counts do not follow
_LEAST_DEPARTURE = 1e-3  # of the rates: smaller ones do not matter


def calibration_job(
    counts: str | None,
    calibrator: Calibrator | LayerPhantom | SelfCalibration | DeadTimeFit | WholeDetector,
    water_cm: float = 20.0,
    seed: int = 0,
    dead_times: str | None = None,
) -> "DetectorCalibration | DeadTimeCalibration | WholeDetectorCalibration":
    """The job of ``calibrate.py``: of dead times, of a pixel model, or of both."""
    if not isinstance(calibrator, DeadTimeFit | WholeDetector):
        return DetectorCalibration(counts, calibrator, water_cm, seed, dead_times)
    if dead_times is not None:
        name = "dead_times" if isinstance(calibrator, DeadTimeFit) else "whole_detector"
        raise ValueError(f"calibration={name} finds dead times: leave dead_times out")
    if isinstance(calibrator, WholeDetector):
        return WholeDetectorCalibration(counts, calibrator)
    return DeadTimeCalibration(counts, calibrator)


class DeadTimeCalibration:
    """Fit the dead times of a current series; writes ``dead_times.h5`` and a report.

    Args:
        counts: a current series (docs/dead_time.md).
        calibrator: the fit.
    """

    def __init__(self, counts: str | None, calibrator: DeadTimeFit) -> None:
        if counts is None:
            raise ValueError(
                "counts needs a value: counts=SERIES.h5, counts in air at four tube currents or "
                "more (docs/dead_time.md)"
            )
        self.path, self.calibrator = Path(counts), calibrator
        self.series = read_series(self.path)

    def run(self, context: Context) -> StudyResults:
        """Fit, write the dead times, and report."""
        found = self.calibrator.fit(self.series)
        if not bool(found.converged.any()):
            raise ValueError(
                f"{self.path}: the fit of the dead times does not converge: check that current_mA "
                "and counts are in the same order, and leave out the highest currents"
            )
        context.begin((MARKER, FILE, *OUTPUTS[1:]))
        write_dead_times(
            context.folder / FILE,
            found,
            series=self.path.name,
            series_sha256=digest_of_file(self.path),
            config=context.config,
            software="pcctlearn",
        )
        doubts = list(_doubts(self.series, found))
        for doubt in doubts:
            log.warning("%s", doubt)
        registered = _typical(self.series)
        corrected = found.corrected(self.series.counts / _times(self.series), 1.0)
        of_pixels = corrected.rate.flatten(1, -2)[:, self.series.usable]
        losses = 1 - self.series.rates[:, self.series.usable] / of_pixels
        return StudyResults(
            numbers=_numbers(found, losses[-1]),
            arrays={
                "series_mA": self.series.current_mA,
                "registered_per_s": registered,
                "corrected_per_s": of_pixels.nanmedian(1).values,
            },
            figures=["etb_pileup.curves"],
            summary=" ".join(
                [
                    f"{int(self.series.usable.sum())} of {self.series.usable.numel()} pixels were "
                    f"used; wrote {context.folder / FILE}.",
                    *(f"Warning: {doubt}." for doubt in doubts),
                ]
            ),
            tables=[_table(self.series, registered, losses)],
        )


def _times(series: CurrentSeries) -> torch.Tensor:
    return series.time_s.reshape(-1, *[1] * (series.counts.ndim - 1))


def _typical(series: CurrentSeries) -> torch.Tensor:
    return series.rates[:, series.usable].nanmedian(1).values


def _doubts(series: CurrentSeries, found: DeadTimes) -> Iterator[str]:
    """A sentence about each threshold whose counts do not follow the curve."""
    misfit = found.misfit.reshape(-1, len(series.thresholds_keV)).nanmedian(0).values
    corrected = found.corrected(series.counts / _times(series), 1.0).rate.flatten(1, -2)
    good = series.usable
    if found.converged.ndim > 1:
        good = good & found.converged.flatten(0, -2).all(-1)
    per_mA = corrected[:, good].mean(1) / series.current_mA[:, None]
    apart = (per_mA / per_mA.mean(0) - 1).abs().amax(0)
    for j, keV in enumerate(series.thresholds_keV.tolist()):
        if misfit[j] > _LARGE_MISFIT and apart[j] > _LEAST_DEPARTURE:
            yield (
                f"counts above {keV:g} keV do not follow the curve of two dead times: corrected "
                f"rates depart from the current by {100 * apart[j]:.2g} % (chi-square "
                f"{misfit[j]:.3g} per degree of freedom); check the currents and times, use lower "
                "currents, or a lower threshold if pulses that overlap add up"
            )
    odd = series.usable & ~good
    if n_odd := int(odd.sum()):
        yield (
            f"{n_odd} pixel(s) do not follow the curve as the others do, and their dead times are "
            f"NaN: {_listed(odd, series)}"
        )
    counts = series.counts.flatten(1, -2)
    falling = ~series.usable & (counts.isfinite() & (counts > 0)).all(-1).all(0)
    if n_falling := int(falling.sum()):
        yield (
            f"the rate of {n_falling} pixel(s) falls while the current rises, and they are left "
            f"out: {_listed(falling, series)}"
        )


def _listed(pixels: torch.Tensor, series: CurrentSeries) -> str:
    places = pixels.reshape(series.counts.shape[1:-1]).nonzero().tolist()
    more = " …" if len(places) > _MOST_LISTED else ""
    return ", ".join(str(tuple(place)) for place in places[:_MOST_LISTED]) + more


def _numbers(found: DeadTimes, losses: torch.Tensor) -> dict[str, float]:
    numbers = {}
    for j, keV in enumerate(found.thresholds_keV.tolist()):
        tp, tn = found.paralysable_s[..., j], found.nonparalysable_s[..., j]
        numbers[f"dead_time_ns_{keV:g}keV"] = 1e9 * float((tp + tn).nanmedian())
        if found.converged.ndim == 1:  # of single pixels, only the sum is determined
            numbers[f"paralysable_ns_{keV:g}keV"] = 1e9 * float(tp)
            numbers[f"nonparalysable_ns_{keV:g}keV"] = 1e9 * float(tn)
        numbers[f"loss_percent_{keV:g}keV"] = 100 * float(losses[:, j].nanmedian())
    return numbers


def _table(series: CurrentSeries, registered: torch.Tensor, losses: torch.Tensor) -> Rows:
    typical = losses.nanmedian(1).values
    columns = ["mA"]
    for keV in series.thresholds_keV.tolist():
        columns += [f"rate above {keV:g} keV (1/s)", "lost (%)"]
    rows = []
    for i, current in enumerate(series.current_mA.tolist()):
        row = [f"{current:g}"]
        for j in range(registered.shape[1]):
            row += [f"{registered[i, j]:.5g}", f"{100 * typical[i, j]:.3g}"]
        rows.append(row)
    return Rows("counts in air, median pixel", columns, rows)
