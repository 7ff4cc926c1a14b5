"""Pixels calibrated on the scan that they make: how far it gets, and what it confuses."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.base import Calibrator
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.self_calibration import SelfCalibration
from pcctlearn.console import without_warnings
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.metrics.errors import Rows, rms
from pcctlearn.metrics.images import region_means, ring_rms
from pcctlearn.phantoms.ellipses import voxel_centers
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.scan import SHADOW_G_CM2
from pcctlearn.shapes import channels_first, channels_last
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.etb_abdomen import without_stripes
from pcctlearn.studies.flawed_bench import Columns, FanCounts, FlawedBench, Plates, interpolated
from pcctlearn.studies.unknown_objects import ScanCase, SimulatedScan, scanned
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid
from pcctlearn.units import MG_ML

log = logging.getLogger(__name__)

Images = Float[Tensor, "keV y x"]
Map = Float[Tensor, "1 y x"]
Numbers = dict[str, float]

_LEAST_BODY_HU = -200.0
_LEAST_VIEWS = 0.05  # share of the views in which a pixel sees the object


class SelfCalibrationStudy:
    """Scan unknown objects with a flawed detector, calibrate it by these scans, and compare.

    The images are those of the same counts: with nominal pixels and a flat field, with stripes
    removed from their line integrals, with the pixels that each calibration finds, and with the
    true ones. Errors are differences of monoenergetic images and of the water map from those of
    the noise-free scan with true pixels; "rings" are their means at one radius minus those of the
    radii within 2 cm (``ring_rms``). Unless called noisy they are those of the noise-free
    counts with the pixels that the noisy scan found, so that noise does not hide rings.

    The first case has all methods, and its pixels also correct ``held_out``, another object; the
    other cases show what self-calibration confuses.

    Args:
        model: the nominal scanner; its materials are water and calcium.
        geometry, grid: fan beam and images.
        self_calibrations: {name: SelfCalibration}; the last is used in all cases.
        calibrations: {name: calibrator from plates}.
        errors: of the detector.
        plates_cm: {name of a calibration: its plates}, and "default" for all others.
        cases: {name: scan that calibrates}.
        held_out: scan that is corrected with the pixels of the first case.
        decomposition: constructor of the decomposition layer for a model.
        regions_cm, radius_cm: centers (x, y) of discs in the first object, and their radius.
        vmi_keV: energies of the monoenergetic images.
        plate_photons: that reach a pixel in air in each exposure of the plates.
        filter: of the reconstruction.
        seed: of the detector and of the noise.
    """

    def __init__(
        self,
        model: SpectralModel,
        geometry: FanBeam,
        grid: ImageGrid,
        self_calibrations: Mapping[str, SelfCalibration],
        calibrations: Mapping[str, Calibrator],
        errors: DetectorErrors,
        plates_cm: Mapping[str, Plates],
        cases: Mapping[str, ScanCase],
        held_out: ScanCase,
        decomposition: Callable[[SpectralModel], Decomposition],
        regions_cm: Sequence[Sequence[float]],
        radius_cm: float = 0.8,
        vmi_keV: Sequence[float] = (50.0, 70.0),
        plate_photons: float = 1e8,
        filter: str = "hamming",
        seed: int = 0,
    ) -> None:
        model.require_materials(["water", "calcium"])
        if not self_calibrations or not cases:
            raise ValueError("self_calibrations and cases must not be empty: give one of each")
        self.bench = FlawedBench(
            model, geometry, calibrations, errors, plates_cm, plate_photons, seed
        )
        self.model, self.geometry, self.grid = model, geometry, grid
        self.self_calibrations, self.cases = dict(self_calibrations), dict(cases)
        self.held_out, self.decomposition = held_out, decomposition
        self.regions_cm = torch.tensor([list(place) for place in regions_cm], dtype=torch.float64)
        self.radius_cm, self.filter, self.seed = radius_cm, filter, seed
        self.image = MonoenergeticImages(model.materials, vmi_keV)
        self._points = voxel_centers(*grid.shape, grid.voxel_cm, dtype=torch.float64)

    @torch.no_grad()
    def run(self, context: Context) -> StudyResults:
        """Scan, calibrate, correct, and compare."""
        (first, case), *others = self.cases.items()
        numbers: Numbers = {}
        arrays: dict[str, Tensor | np.ndarray] = {}
        scan = self._scanned(case, self.bench.pixels)
        other = self._scanned(self.held_out, self.bench.pixels)
        models: dict[str, PixelModel | None] = {"nominal": None, "ring_removal": None}
        for name, calibrator in self.self_calibrations.items():
            models[name] = self._calibrated(name, calibrator, scan, numbers)
        for name in self.bench.calibrations:
            from_plates = self.bench.calibrated(name)
            if not isinstance(from_plates, PixelModel):
                raise ValueError(
                    f"calibration {name!r} finds no pixel model: leave it out, with "
                    f"~study.calibrations.{name}"
                )
            models[name] = from_plates
        models["true"] = self.bench.pixels
        for name, found in models.items():
            log.info("correcting with the pixels of %s", name)
            numbers |= self._of_images(f"{first}.{name}", name, scan, found, arrays)
            numbers |= self._of_images(f"held_out.{name}", name, other, found, {})
            numbers |= self._of_thresholds(f"{first}.{name}", scan, found, self.bench.pixels)
        last = list(self.self_calibrations)[-1]
        for key, case in others:
            log.info("case %s", key)
            pixels = self.bench.pixels
            if case.errors is not None:
                nominal_keV = pixels.nominal_keV
                pixels = case.errors.pixels(nominal_keV, self.geometry.n_columns, self.seed)
            scan = self._scanned(case, pixels)
            found = self._calibrated(last, self.self_calibrations[last], scan, {})
            for name, one in {"nominal": None, last: found}.items():
                numbers |= self._of_images(f"{key}.{name}", name, scan, one, arrays)
                numbers |= self._of_thresholds(f"{key}.{name}", scan, one, pixels)
        return StudyResults(
            numbers=numbers,
            arrays=arrays,
            figures=["self_calibration.images", "self_calibration.cases"],
            summary=(
                f"{self.geometry.n_columns} pixels, {self.geometry.n_views} views of "
                f"{self.cases[first].photons:g} photons a pixel in air unless stated, plates of "
                f"{self.bench.photons:g}. Pixels are found from noisy scans; errors are those of "
                "the noise-free scan with these pixels, relative to the true pixels, unless called "
                "noisy."
            ),
            tables=self._tables(numbers, first, list(models), [key for key, _ in others], last),
            tabulated=numbers,
        )

    def _scanned(self, case: ScanCase, pixels: PixelModel) -> SimulatedScan:
        return scanned(case, pixels, self.model, self.geometry, self.seed + 2)

    def _calibrated(
        self, name: str, calibrator: SelfCalibration, scan: SimulatedScan, numbers: Numbers
    ) -> PixelModel:
        log.info("calibrating with %s", name)
        began = perf_counter()
        with without_warnings():
            found = calibrator.fit(scan.record(self.grid, self.model), self.model)
        numbers[f"seconds.{name}"] = perf_counter() - began
        numbers[f"uncalibrated_pixels.{name}"] = float((~found.calibrated).sum())
        return found.as_panel((self.geometry.n_columns,))

    def _line_integrals(
        self, name: str, counts: FanCounts, scan: SimulatedScan, found: PixelModel | None
    ) -> Float[Tensor, "view column material"]:
        """Decomposed, with counts scaled to the air of the model and flagged pixels filled."""
        model = self.model if found is None else found.spectral_model(self.model)
        scaled = (counts / scan.air * model.air()).float()
        with without_warnings():
            solution = self.decomposition(model)(channels_first(scaled[None]))
        area = channels_last(solution.x)[0].double()
        if name == "ring_removal":
            return without_stripes(area)
        good: Columns | None = None if found is None else found.calibrated
        return area if good is None else interpolated(area, good)

    def _of_images(
        self,
        key: str,
        name: str,
        scan: SimulatedScan,
        found: PixelModel | None,
        arrays: dict[str, Tensor | np.ndarray],
    ) -> Numbers:
        reconstruct = fbp(scan.beam, self.grid, self.filter, truncation="cosine").double()

        def images(area: Float[Tensor, "view column material"]) -> tuple[Images, Map]:
            maps = reconstruct @ area.movedim(-1, 0).contiguous()
            return self.image.hounsfield(maps[None])[0], MG_ML * maps[:1]

        numbers: Numbers = {}
        (vmi, water), reference = (
            images(self._line_integrals(name, scan.expected, scan, found)),
            images(scan.reference),
        )
        noisy = images(self._line_integrals(name, scan.counts, scan, found))
        body = reference[0][-1] > _LEAST_BODY_HU
        errors = torch.cat([vmi - reference[0], water - reference[1]])
        of_noisy = torch.cat([noisy[0] - reference[0], noisy[1] - reference[1]])
        channels = [f"HU_{keV:g}keV" for keV in self.image.energies_keV] + ["water_mg_mL"]
        rings = partial(ring_rms, points_cm=self._points, body=body, width_cm=self.grid.voxel_cm)
        for channel, error, with_noise in zip(channels, errors, of_noisy, strict=True):
            means = region_means(error, self._points, self.regions_cm, self.radius_cm)
            numbers |= {
                f"ring_{channel}.{key}": rings(error),
                f"rms_{channel}.{key}": rms(error[body]),
                f"region_error_max_{channel}.{key}": means.abs().max().item(),
                f"noisy_ring_{channel}.{key}": rings(with_noise),
                f"noisy_rms_{channel}.{key}": rms(with_noise[body]),
            }
        arrays[f"vmi/{key}"], arrays[f"error/{key}"] = noisy[0].float(), errors[:-1].float()
        return numbers

    def _of_thresholds(
        self, key: str, scan: SimulatedScan, found: PixelModel | None, true: PixelModel
    ) -> Numbers:
        """Errors of thresholds in keV: over the pixels that see the object, and their mean."""
        T = true.nominal_keV if found is None else found.thresholds_keV
        seen = (scan.reference.sum(-1) > SHADOW_G_CM2).double().mean(0) > _LEAST_VIEWS
        if found is not None:
            seen = seen & found.calibrated
        error = (T - true.thresholds_keV)[seen]
        numbers: Numbers = {}
        for j, keV in enumerate(true.nominal_keV.tolist()):
            numbers[f"threshold_sd_keV_{keV:g}.{key}"] = error[:, j].std().item()
            numbers[f"threshold_mean_keV_{keV:g}.{key}"] = error[:, j].mean().item()
        if found is not None and found is not true:
            sd = found.threshold_sd_keV[seen]  # zero of a threshold that is nominal by definition
            numbers[f"threshold_error_over_standard_error.{key}"] = rms((error / sd)[sd > 0])
        return numbers

    def _tables(
        self, numbers: Numbers, first: str, names: Sequence[str], others: Sequence[str], last: str
    ) -> list[Rows]:
        channels = [f"HU_{keV:g}keV" for keV in self.image.energies_keV] + ["water_mg_mL"]
        energies = " / ".join(f"{keV:g}" for keV in self.image.energies_keV)

        def cell(start: str, key: str, of: Sequence[str]) -> str:
            return " / ".join(f"{numbers[f'{start}_{channel}.{key}']:.3g}" for channel in of)

        def row(label: str, key: str) -> list[str]:
            keV = self.bench.pixels.nominal_keV.tolist()
            T = [
                " / ".join(f"{numbers.get(f'{kind}_{one:g}.{key}', 0.0):.2g}" for one in keV)
                for kind in ("threshold_sd_keV", "threshold_mean_keV")
            ]
            starts = ("ring", "rms", "region_error_max")
            images = [cell(start, key, channels) for start in starts]
            return [label.replace("_", " "), *images, cell("noisy_ring", key, channels[:-1]), *T]

        unit = f"({energies} keV in HU, water in mg/mL)"
        head = [
            "pixels", f"rings {unit}", "RMS", "largest region error", "noisy rings (HU)",
            "thresholds, sd (keV)", "mean (keV)",
        ]  # fmt: skip
        tables = [
            Rows(f"{first}: calibrated and corrected", head, [
                row(name, f"{first}.{name}") for name in names
            ]),
            Rows("another object, corrected with these pixels", head[:5], [
                row(name, f"held_out.{name}")[:5] for name in names
            ]),
        ]  # fmt: skip
        if others:
            rows = [row(f"{key}, {name}", f"{key}.{name}") for key in others
                    for name in ("nominal", last)]  # fmt: skip
            tables.append(Rows("what self-calibration confuses", head, rows))
        return tables
