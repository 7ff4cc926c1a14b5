"""One gradient for the whole detector: thresholds, flux, skew, dead time and scatter together."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcctlearn.calibration.base import Calibrator
from pcctlearn.calibration.dead_times import fit_dead_times
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.whole_detector import WholeDetector, WholeDetectorModel
from pcctlearn.console import without_warnings
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.metrics.errors import Rows, rms
from pcctlearn.phantoms.ellipses import EllipsePhantom
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.scans.record import ScanRecord
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.joint_bench import CollimatedBeam, Counters, JointBench
from pcctlearn.studies.joint_image import JudgedImages, KnownDetector
from pcctlearn.studies.pulse_check import PulseCheck
from pcctlearn.studies.whole_detector_report import information_rows, information_sentences
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid
from pcctlearn.validation import require_positive

log = logging.getLogger(__name__)

Numbers = dict[str, float]
Plates = Mapping[str, Sequence[float]]

_UM = 1e4  # in a cm


class Today(NamedTuple):
    """What is done one after the other: dead times from a current series, pixels from plates.

    Args:
        calibrator: of the pixels.
        plates_cm: {material: thickness in each exposure}, with the photons of the phantom scan.
        series: tube currents in air, relative to that of the scan.
        series_photons: that reach a pixel at the current of the scan, in each exposure.
        amplitude: of the scatter, assumed.
    """

    calibrator: Calibrator
    plates_cm: Plates
    series: Sequence[float]
    series_photons: float
    amplitude: float


class JointCalibration:
    """Calibrate a simulated detector from one phantom scan, with all unknowns or without some.

    The detector has errors of gain, skew and all thresholds, some of them common to all pixels,
    dead times that differ between thresholds, and scatter of an unknown amplitude. "joint" fits all
    of them to one scan. "without …" holds one kind at its nominal value, for the first noise of the
    fewest photons. "one dead time" fits the
    same dead time for all thresholds. "sequential" is ``Today``, and "nominal" corrects nothing.
    "true" has the true detector and the known scatter: what remains is the noise of its simulation.
    The images are of another object, without noise.

    Args:
        model: the nominal scanner; its materials are those of the phantom.
        calibrator: ``WholeDetector``.
        today: the calibration to compare with.
        errors, common_keV: of the pixels, and of all of them.
        counters, beam: dead times and scatter.
        phantom, geometry: of the calibration.
        judged, judged_geometry, grid: object and images that are judged.
        decomposition: constructor of the decomposition for a model.
        photons: that reach a pixel in air in all views together, for each level.
        without: kinds of unknowns that are held, one at a time.
        air_views: number of views whose mean is the air of the scan.
        n_draws: of the noise.
        pulses: a check with counts made pulse by pulse; None: no check.
        keV: energy of the images.
        filter: of the reconstruction.
        seed: of detector, scatter and noise.
    """

    def __init__(
        self,
        model: SpectralModel,
        calibrator: WholeDetector,
        today: Today,
        errors: DetectorErrors,
        common_keV: Sequence[float],
        counters: Counters,
        beam: CollimatedBeam,
        phantom: EllipsePhantom,
        geometry: FanBeam,
        judged: EllipsePhantom,
        judged_geometry: FanBeam,
        grid: ImageGrid,
        decomposition: Callable[[SpectralModel], Decomposition],
        photons: Sequence[float] = (1e8,),
        without: Sequence[str] = ("gain", "skew", "thresholds", "dead_time", "scatter"),
        air_views: int = 24,
        n_draws: int = 5,
        pulses: PulseCheck | None = None,
        keV: float = 60.0,
        filter: str = "hamming",
        seed: int = 0,
    ) -> None:
        require_positive(
            n_draws=n_draws, keV=keV, **{f"photons[{i}]": n for i, n in enumerate(photons)}
        )
        if not photons:
            raise ValueError("photons must not be empty: give photons=[1.0e8]")
        model.require_materials(phantom.materials)
        if judged_geometry.n_columns != geometry.n_columns:
            raise ValueError(
                f"the scans have {geometry.n_columns} and {judged_geometry.n_columns} columns of "
                "one detector: give both geometries the same n_columns"
            )
        self.model, self.today = model, today
        self.bench = JointBench(
            model, errors, common_keV, counters, beam, geometry, air_views, seed
        )
        self.phantom, self.photons = phantom, tuple(photons)
        settings = {"air_views": air_views, "materials": calibrator.materials}
        self.calibrators = {"joint": calibrator.with_settings(**settings)}
        for kind in without:
            self.calibrators[f"without {kind.replace('_', ' ')}"] = calibrator.with_settings(
                **settings, held=(kind,)
            )
        self.calibrators["one dead time"] = calibrator.with_settings(
            **settings, each_threshold=not calibrator.each_threshold
        )
        self.judge = JudgedImages(
            self.bench, judged, judged_geometry, grid, decomposition, keV, filter
        )
        self.n_draws, self.pulses, self.seed = n_draws, pulses, seed
        self.nominal_keV = model.thresholds.edges_keV.detach()[:-1]

    def run(self, context: Context) -> StudyResults:
        """Scan, calibrate and compare."""
        log.info("scatter of the phantom, twice")
        bench, n_views = self.bench, self.bench.geometry.n_views
        true, known = (bench.scatter(self.phantom, n_views, k) for k in (False, True))
        log.info("the object that is judged")
        scan = self.judge.scan(bench.view_s(self.photons[0]))
        draws: dict[str, list[float]] = {}
        images: dict[str, Tensor] = {"reference": scan.reference}
        first: dict[float, WholeDetectorModel] = {}
        for photons in self.photons:
            expected = bench.expected(self.phantom, photons, true, known)
            for draw in range(self.n_draws):
                log.info("%.0e photons, draw %d", photons, draw)
                noisy = bench.noisy(expected, self.seed + 1 + draw)
                for name, detector, of_fit in self._rows(noisy, photons, draw, first):
                    image = scan.image(detector)
                    scores = self._errors(detector) | scan.errors(image) | of_fit
                    if draw == 0:
                        images[f"{_key(photons)}_{_word(name)}"] = image
                    for quantity, value in scores.items():
                        key = f"{quantity}.{_key(photons)}.{_word(name)}"
                        draws.setdefault(key, []).append(value)
        numbers = {name: float(np.mean(values)) for name, values in draws.items()}
        checked, tables = self._checked()
        best = first[max(first)]
        return StudyResults(
            numbers=numbers | checked,
            arrays={
                "keV": self.nominal_keV,
                **{f"images/{name}": image.float() for name, image in images.items()},
                **{f"draws/{name}": np.array(values) for name, values in draws.items()},
                **self._per_pixel(best),
            },
            figures=["joint_calibration.images", "joint_calibration.pixels"],
            summary=self._summary(best),
            tables=[*self._tables(draws), information_rows(best), *tables],
            tabulated=numbers,
        )

    def _rows(
        self, scan: ScanRecord, photons: float, draw: int, first: dict[float, WholeDetectorModel]
    ) -> Iterator[tuple[str, KnownDetector, Numbers]]:
        """(name, what is known, numbers of the calibration)."""
        none = torch.zeros_like(self.nominal_keV)
        nominal = PixelModel.known(
            torch.ones_like(self.bench.pixels.gain),
            torch.zeros_like(self.bench.pixels.thickness_cm),
            self.bench.pixels.materials,
            self.nominal_keV.expand_as(self.bench.pixels.thresholds_keV),
            self.nominal_keV,
        )
        counters = self.bench.counters.pile_up(1.0)
        times = counters.paralysable_s.detach(), counters.nonparalysable_s.detach()
        if draw == 0:  # the same in every draw
            yield "nominal", KnownDetector(nominal, none, none, 0.0), {}
            amplitude = self.bench.beam.amplitude
            yield "true", KnownDetector(self.bench.pixels, *times, amplitude), {}
        yield "sequential", self._sequential(photons, draw), {}
        once = photons == self.photons[0] and draw == 0
        for name, calibrator in self.calibrators.items():
            if calibrator.held and not once:
                continue  # their errors are far larger than the noise
            began = perf_counter()
            try:
                with without_warnings():
                    found = calibrator.fit(scan, self.model)
            except ValueError as error:
                if not calibrator.held:
                    raise
                log.warning("%s: %s", name, error)  # the counts contradict what is held
                continue
            seconds = perf_counter() - began
            if name == "joint":
                first.setdefault(photons, found)
            pixels = found.pixels.as_panel((self.bench.geometry.n_columns,))
            dead = found.dead_times
            detector = KnownDetector(
                pixels, dead.paralysable_s, dead.nonparalysable_s, found.amplitude or 0.0
            )
            yield (
                name,
                detector,
                {"seconds": seconds} | _error_bars(found, pixels, self.bench.pixels),
            )

    def _sequential(self, photons: float, draw: int) -> KnownDetector:
        """Dead times of a current series, then ETB-Cal from plates; the scatter is assumed."""
        today, bench, seed = self.today, self.bench, self.seed + 1000 * (1 + draw)
        with without_warnings():
            dead = fit_dead_times(bench.series(today.series, today.series_photons, seed))
            lengths = torch.tensor([list(v) for v in today.plates_cm.values()], dtype=torch.float64)
            plates, time_s = bench.plates(
                lengths.T, tuple(today.plates_cm), photons / lengths.shape[1], seed + 1
            )
            corrected = dead.corrected(plates.counts, time_s).rate
            pixels = today.calibrator.fit(replace(plates, counts=corrected), self.model)
        assert isinstance(pixels, PixelModel)
        return KnownDetector(pixels, dead.paralysable_s, dead.nonparalysable_s, today.amplitude)

    def _errors(self, known: KnownDetector) -> Numbers:
        """Of everything that a calibration knows, over the pixels that it calibrated."""
        true, pixels = self.bench.pixels, known.pixels
        good = pixels.calibrated
        T = (pixels.thresholds_keV - true.thresholds_keV)[good]
        numbers = {
            "uncalibrated_pixels": float((~good).sum()),
            "threshold_rms_keV": rms(T),
            "skew_rms_um": rms(_UM * (pixels.thickness_cm - true.thickness_cm)[good]),
        }
        counters = self.bench.counters
        for j, keV in enumerate(self.nominal_keV.tolist()):
            numbers[f"threshold_rms_keV_{keV:g}"] = rms(T[:, j])
            numbers[f"threshold_mean_keV_{keV:g}"] = T[:, j].mean().item()
            numbers[f"threshold_sd_keV_{keV:g}"] = T[:, j].std().item()
            wanted = counters.paralysable_s[j] + counters.nonparalysable_s
            found = float(known.paralysable_s[j] + known.nonparalysable_s[j])
            numbers[f"dead_time_error_percent_{keV:g}"] = abs(100 * (found / wanted - 1))
        wanted = self.bench.beam.amplitude
        numbers["amplitude_error_percent"] = abs(100 * (known.amplitude / wanted - 1))
        return numbers

    def _checked(self) -> tuple[Numbers, list[Rows]]:
        if self.pulses is None:
            return {}, []
        log.info("counts pulse by pulse")
        return self.pulses.run(self.bench, self.phantom, self.calibrators["joint"])

    def _per_pixel(self, found: WholeDetectorModel) -> dict[str, Tensor | np.ndarray]:
        pixels = found.pixels.as_panel((self.bench.geometry.n_columns,))
        return {
            "threshold_error_keV": pixels.thresholds_keV - self.bench.pixels.thresholds_keV,
            "threshold_sd_keV": pixels.threshold_sd_keV,
            "calibrated": pixels.calibrated,
        }

    def _tables(self, draws: Mapping[str, list[float]]) -> list[Rows]:
        keV = [f"{value:g}" for value in self.nominal_keV.tolist()]
        of_pixels = {
            **{f"threshold_rms_keV_{edge}": f"{edge} keV" for edge in keV},
            **{f"threshold_mean_keV_{edge}": f"mean {edge}" for edge in keV},
            "skew_rms_um": "skew (µm)",
        }
        shared = {
            **{f"dead_time_error_percent_{edge}": f"dead {edge} (%)" for edge in keV},
            "amplitude_error_percent": "scatter (%)",
            "rings_HU": "rings (HU)",
            "image_rms_HU": "RMS (HU)",
            "seconds": "s",
        }
        tables = []
        for photons in self.photons:
            level = f"{photons:.0e} photons a pixel, means of {self.n_draws} draws"
            title = f"RMS errors of thresholds (keV), their means, and skew: {level}"
            tables.append(self._table(draws, photons, of_pixels, title))
            title = f"errors of dead times, scatter and images: {level}"
            tables.append(self._table(draws, photons, shared, title))
        return tables

    def _table(
        self,
        draws: Mapping[str, list[float]],
        photons: float,
        columns: Mapping[str, str],
        title: str,
    ) -> Rows:
        rows = []
        for name in ("nominal", "sequential", *self.calibrators, "true"):
            ends = [f"{column}.{_key(photons)}.{_word(name)}" for column in columns]
            cells = [draws.get(end) for end in ends]
            if any(cell is not None for cell in cells):
                rows.append([name, *("" if c is None else f"{np.mean(c):.2g}" for c in cells)])
        return Rows(title, ["calibration", *columns.values()], rows)

    def _summary(self, found: WholeDetectorModel) -> str:
        bench = self.bench
        air = bench.true_model.air().detach()
        photons = bench.counters.photons_per_s / float(self.model.fluence.sum())
        pile_up = bench.counters.pile_up(1.0)
        lost = 1 - pile_up(photons * air).sum(-1) / (photons * air).sum(-1)
        return " ".join(
            [
                f"{bench.geometry.n_columns} pixels, {bench.geometry.n_views} views of a phantom, "
                f"{100 * float(lost.detach().median()):.1f} % of the photons above "
                f"{self.nominal_keV[0]:g} keV lost in air, scatter of amplitude "
                f"{bench.beam.amplitude:g}. Errors of the images are differences from the image of "
                f"the primary counts and the true detector, at {self.judge.keV:g} keV, without "
                "noise.",
                f"What the counts hardly tell apart ({_key(max(self.photons))} photons, nothing "
                "assumed of the thresholds):",
                *information_sentences(found),
            ]
        )


def _error_bars(found: WholeDetectorModel, pixels: PixelModel, true: PixelModel) -> Numbers:
    """RMS of errors over their standard deviations."""
    good = pixels.calibrated
    z = (pixels.thresholds_keV - true.thresholds_keV)[good] / pixels.threshold_sd_keV[good]
    if not bool((pixels.threshold_sd_keV[good] > 0).all()):
        return {}
    return {"threshold_rms_in_error_bars": rms(z)}


def _key(photons: float) -> str:
    return f"{photons:.0e}".replace("+0", "").replace("+", "")


def _word(name: str) -> str:
    return name.replace(" ", "_")
