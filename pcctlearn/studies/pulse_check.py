"""The whole-detector calibration on counts that are made pulse by pulse."""

from dataclasses import dataclass, replace

import torch

from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.whole_detector import WholeDetector, WholeDetectorModel
from pcctlearn.console import without_warnings
from pcctlearn.metrics.errors import Rows, rms
from pcctlearn.montecarlo.pulses import PulseCounters
from pcctlearn.phantoms.ellipses import EllipsePhantom
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.noise import seed_of
from pcctlearn.physics.thresholds import bins_from_above
from pcctlearn.studies.joint_bench import JointBench
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.validation import require_positive


@dataclass(frozen=True)
class PulseCheck:
    """Counts of single pulses (``PulseCounters``), without scatter: no formula for dead times.

    Args:
        pulse_s: length of a pulse, which is the paralysable dead time of all thresholds.
        photons: that reach a pixel in air in all views together.
        n_views, n_columns: of the scan, over the fan of the bench.
    """

    pulse_s: float
    photons: float
    n_views: int
    n_columns: int

    def __post_init__(self) -> None:
        require_positive(**vars(self))

    @torch.no_grad()
    def run(
        self, bench: JointBench, phantom: EllipsePhantom, calibrator: WholeDetector
    ) -> tuple[dict[str, float], list[Rows]]:
        """Count, calibrate, and compare with the pulses."""
        wide, n = bench.geometry, self.n_columns
        fan = replace(
            wide, n_views=self.n_views, n_columns=n, pixel_cm=wide.column_cm * wide.n_columns / n
        )
        assert isinstance(fan, FanBeam)
        pixels = bench.pixels
        some = torch.linspace(0, wide.n_columns - 1, n).round().long()
        own = replace(
            pixels, gain=pixels.gain[some], thickness_cm=pixels.thickness_cm[some],
            thresholds_keV=pixels.thresholds_keV[some],
            gain_covariance=pixels.gain_covariance[some],
            threshold_sd_keV=pixels.threshold_sd_keV[some],
        )  # fmt: skip
        small = bench.with_pixels(own, fan)
        view_s = small.view_s(self.photons)
        model = own.spectral_model(bench.model)
        spectra = model.fluence.double() * (
            self.photons / self.n_views / float(bench.model.fluence.sum())
        )
        assert model.skew is not None
        spectra = spectra * model.skew()
        counters = PulseCounters(bench.model.response, self.pulse_s, 0.0, adds=False)
        area = phantom.line_integrals(*fan.rays()).movedim(0, -1)
        table = attenuation_table(phantom.materials, bench.model.energies_keV)
        energies = bench.model.energies_keV
        views = [
            counters.count(
                spectra * torch.exp(-view @ table), energies, own.thresholds_keV, view_s,
                seed_of(bench.seed, f"pulses, {index}"),
            ).registered
            for index, view in enumerate(torch.cat([torch.zeros_like(area[:1]), area]))
        ]  # fmt: skip
        counts = bins_from_above(torch.stack(views))
        scan = small.record(phantom, counts[1:], counts[0], view_s)
        with without_warnings():
            found = calibrator.with_settings(air_views=1.0).fit(scan, bench.model)
        return self._compared(found, own)

    def _compared(
        self, found: WholeDetectorModel, true: PixelModel
    ) -> tuple[dict[str, float], list[Rows]]:
        pixels, dead = found.pixels.as_panel((self.n_columns,)), found.dead_times
        good = pixels.calibrated
        error = (pixels.thresholds_keV - true.thresholds_keV)[good]
        z = error / pixels.threshold_sd_keV[good]
        total = dead.paralysable_s + dead.nonparalysable_s
        sd = 1e-9 * found.covariance.shared.diagonal().clamp(min=0).sqrt()
        numbers, rows = {}, []
        for j, keV in enumerate(dead.thresholds_keV.tolist()):
            off = 100 * (float(total[j]) / self.pulse_s - 1)
            bar = 100 * float(sd[j if found.unknowns.n_times > 1 else 0]) / self.pulse_s
            numbers[f"pulses_dead_time_error_percent_{keV:g}keV"] = off
            numbers[f"pulses_threshold_rms_keV_{keV:g}keV"] = rms(error[:, j])
            rows.append(
                [f"{keV:g} keV", f"{off:+.2g}", f"{bar:.2g}", f"{rms(error[:, j]):.2g}",
                 f"{error[:, j].mean():+.2g}", f"{rms(z[:, j]):.2g}"]
            )  # fmt: skip
        title = (
            f"counts pulse by pulse: {self.photons:.0e} photons a pixel, {int(good.sum())} pixels"
        )
        columns = [
            "threshold", "dead time, error (%)", "standard deviation (%)", "threshold, RMS (keV)",
            "mean (keV)", "RMS in error bars",
        ]  # fmt: skip
        return numbers, [Rows(title, columns, rows)]
