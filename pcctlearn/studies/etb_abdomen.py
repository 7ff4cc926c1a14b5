"""An abdomen scanned by pixels that differ, corrected by ETB-Cal and its rivals [2, Table 3]."""

import logging
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.signal import savgol_filter
from torch import Tensor

from pcctlearn.calibration.base import Calibrator, PixelCalibration, ProjectionCorrection
from pcctlearn.calibration.material_correction import material_correction
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.beam_hardening import beam_hardening, spectra_above
from pcctlearn.decomposition.polynomial import ranges
from pcctlearn.metrics.errors import Rows, rms
from pcctlearn.metrics.images import region_difference, structural_similarity
from pcctlearn.phantoms.ellipses import EllipsePhantom, voxel_centers
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.shapes import channels_first, channels_last
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.flawed_bench import (
    Columns,
    FanProjections,
    FanScan,
    FlawedBench,
    Plates,
    interpolated,
)
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid

log = logging.getLogger(__name__)

Images = Float[Tensor, "threshold y x"]
Numbers = dict[str, float]

EXACT = "exact_"  # start of the names of decomposed images
MATERIALS = "materials_"  # of images corrected for all basis materials
_LEAST_BODY_PER_CM = 0.05
_STRIPE_COLUMNS = 31


class EtbAbdomen:
    """Images of counts above each threshold, corrected in every way, against a nominal detector.

    The scan has no noise, so that what differs is the calibration; the counts of the plates have
    the noise of ``photons`` ("noisy_"), or none. Projections are corrected for beam hardening by
    the polynomials of every pixel and reconstructed for each threshold. "uncorrected" uses the
    polynomials of a nominal pixel for all, "ring_removal" removes stripes from their sinogram, and
    "true" uses the true detector: the floor of all corrections for water alone, as the abdomen is
    not of water. "exact_…" decomposes the counts, scaled to the air of the model as by a flat
    field, with the model of every pixel, and has no floor; "materials_…" comes close to it with
    polynomials of the basis materials. Pixels that a calibration flags are interpolated from their
    neighbours.

    Args:
        model: the nominal scanner; its materials are the basis of the decomposition.
        geometry, grid: fan beam and images.
        phantom: of any materials.
        calibrations: {name: calibrator}; the pixel models among them are also used to decompose.
        errors: of the detector.
        decomposition: constructor of the decomposition layer for a model.
        range_g_cm2: {material: largest area density} of the basis, for the polynomials.
        regions_cm: centers (x, y) of discs of one material.
        plates_cm: {name of a calibration: its plates}, and "default" for all others.
        of_two_materials: calibrations that correct for two materials, not for water alone; their
            errors are differences from the reference of "materials_…".
        region_radius_cm: of the discs.
        photons: that reach a pixel in air in each exposure of the plates.
        filter: of the reconstruction.
        seed: of the detector and of the noise.
    """

    def __init__(
        self,
        model: SpectralModel,
        geometry: FanBeam,
        grid: ImageGrid,
        phantom: EllipsePhantom,
        calibrations: Mapping[str, Calibrator],
        errors: DetectorErrors,
        decomposition: Callable[[SpectralModel], Decomposition],
        range_g_cm2: Mapping[str, float],
        regions_cm: Sequence[Sequence[float]],
        plates_cm: Mapping[str, Plates],
        of_two_materials: Sequence[str] = (),
        region_radius_cm: float = 0.4,
        photons: float = 1e8,
        filter: str = "hamming",
        seed: int = 0,
    ) -> None:
        self.bench = FlawedBench(model, geometry, calibrations, errors, plates_cm, photons, seed)
        if unknown := sorted(set(of_two_materials) - set(calibrations)):
            raise ValueError(
                f"of_two_materials names {', '.join(unknown)}, the calibrations are "
                f"{sorted(calibrations)}: leave out the others"
            )
        self.model, self.geometry, self.grid, self.phantom = model, geometry, grid, phantom
        self.decomposition = decomposition
        self.range_g_cm2 = dict(range_g_cm2)
        ranges(self.range_g_cm2, model.materials)  # raises unless it names the basis
        self.regions_cm = torch.tensor([list(place) for place in regions_cm], dtype=torch.float64)
        self.of_two_materials = [
            start + name for name in of_two_materials for start in ("", "noisy_")
        ]
        self.region_radius_cm = region_radius_cm
        self._reconstruct = fbp(geometry, grid, filter, truncation="cosine").double()

    def run(self, context: Context) -> StudyResults:
        """Scan, calibrate, correct, reconstruct, and compare."""
        true = self.bench.pixels
        rays = channels_last(self.phantom.line_integrals(*self.geometry.rays())[None])[0]
        table = attenuation_table(self.phantom.materials, self.model.energies_keV)
        models = [true.spectral_model(self.model), self.model]
        scan, reference = self.bench.scans(models, rays, table)
        plain = beam_hardening(spectra_above(self.model), self.model)
        found: dict[str, PixelCalibration] = {"true": true}
        numbers: Numbers = {}
        for start, noisy in (("", False), ("noisy_", True)):
            for name in self.bench.calibrations:
                began = perf_counter()
                found[start + name] = self.bench.calibrated(name, noisy)
                numbers[f"seconds.{start}{name}"] = perf_counter() - began
        images = {"uncorrected": self._corrected(plain, scan)}
        stripes = without_stripes(plain(scan.projections))
        images["ring_removal"] = self._reconstructed(stripes)
        for name, calibration in found.items():
            correct, good = calibration.correction(self.model), calibration.calibrated
            images[name] = self._corrected(correct, scan, good)
            numbers[f"uncalibrated_pixels.{name}"] = float((~good).sum())
        truth = {"": self._corrected(plain, reference)}
        of_materials = self._of_materials(spectra_above(self.model))
        truth[MATERIALS] = self._corrected(of_materials, reference)
        images[f"{MATERIALS}uncorrected"] = self._corrected(of_materials, scan)
        truth[EXACT] = self._decomposed(self.model, reference, plain)
        images[f"{EXACT}uncorrected"] = self._decomposed(self.model, scan, plain)
        for name, calibration in found.items():
            if isinstance(calibration, PixelModel):
                good = calibration.calibrated
                of_materials = self._of_materials(calibration.spectra_above(self.model))
                images[MATERIALS + name] = self._corrected(of_materials, scan, good)
                model = calibration.spectral_model(self.model)
                images[EXACT + name] = self._decomposed(model, scan, plain, good)
        water = plain.water_per_cm[:, None, None]
        for name, image in images.items():
            start = next(start for start in (EXACT, MATERIALS, "") if name.startswith(start))
            if name in self.of_two_materials:
                start = MATERIALS
            numbers |= self._scores(name, image, truth[start], water)
        shown = images | {f"{start}reference": image for start, image in truth.items()}
        return StudyResults(
            numbers=numbers,
            arrays={
                "keV": true.nominal_keV,
                **{f"images/{k}": (1000 * (v / water - 1)).float() for k, v in shown.items()},
            },
            figures=["etb.abdomen", "etb.abdomen_decomposed"],
            summary=(
                f"{self.geometry.n_columns} pixels, {self.geometry.n_views} views. Plates without "
                f"noise, and with that of {self.bench.photons:g} photons a pixel in air. "
                "Errors are differences from a nominal detector with the same correction, over the "
                "body."
            ),
            tables=self._tables(numbers, list(images)),
            tabulated=numbers,
        )

    def _of_materials(
        self, spectra: Float[Tensor, "*pixel threshold energy"]
    ) -> ProjectionCorrection:
        return material_correction(spectra, self.model, self.range_g_cm2)

    def _corrected(
        self, correct: ProjectionCorrection, scan: FanScan, good: Columns | None = None
    ) -> Images:
        return self._reconstructed(correct(scan.projections), good)

    def _reconstructed(self, projections: FanProjections, good: Columns | None = None) -> Images:
        if good is not None:
            projections = interpolated(projections, good)
        return self._reconstruct @ projections.movedim(-1, 0).contiguous()

    @torch.no_grad()
    def _decomposed(
        self,
        model: SpectralModel,
        scan: FanScan,
        at: ProjectionCorrection,
        good: Columns | None = None,
    ) -> Images:
        """Monochromatic images at the energies of ``at``, from the basis line integrals.

        The counts of each pixel are scaled to the air of its model, as by a flat field.
        """
        log.info("decomposing %d rays", scan.counts[..., 0].numel())
        counts = scan.counts / scan.air * model.air()
        solution = self.decomposition(model)(channels_first(counts[None]))
        if failed := int((~solution.converged).sum()):
            log.warning("%d of %d rays were not decomposed", failed, counts[..., 0].numel())
        attenuation = attenuation_table(self.model.materials, at.effective_keV)
        rays = channels_last(solution.x)[0] @ attenuation.to(solution.x)
        return self._reconstructed(rays, good)

    def _scores(self, name: str, image: Images, reference: Images, water: Tensor) -> Numbers:
        points = voxel_centers(*self.grid.shape, self.grid.voxel_cm, dtype=torch.float64)
        numbers: Numbers = {}
        for j, keV in enumerate(self.model.thresholds.edges_keV.detach()[:-1].tolist()):
            body: Bool[Tensor, "y x"] = reference[j] > _LEAST_BODY_PER_CM
            difference = image[j] - reference[j]
            hounsfield = 1000 * difference / water[j]
            end = f"_{keV:g}keV.{name}"
            numbers |= {
                f"mse_per_cm2{end}": difference[body].square().mean().item(),
                f"rms_HU{end}": rms(hounsfield[body]),
                f"ssim{end}": structural_similarity(image[j], reference[j], body),
                f"region_difference_HU{end}": region_difference(
                    hounsfield, points, self.regions_cm, self.region_radius_cm
                ),
            }
        return numbers

    def _tables(self, numbers: Numbers, names: Sequence[str]) -> list[Rows]:
        quantities = ["mse_per_cm2", "rms_HU", "ssim", "region_difference_HU"]
        labels = ["MSE (1/cm²)", "RMS (HU)", "SSIM", "regions (HU)"]
        tables = []
        for keV in self.model.thresholds.edges_keV.detach()[:-1].tolist():
            rows = [
                [name, *(f"{numbers[f'{q}_{keV:g}keV.{name}']:.3g}" for q in quantities)]
                for name in names
            ]
            tables.append(Rows(f"counts above {keV:g} keV", ["correction", *labels], rows))
        return tables


def without_stripes(projections: FanProjections) -> FanProjections:
    """Subtract from every column the median over the views of its excess over the columns nearby.

    The excess is the difference from a parabola fitted to 31 columns. An edge of the object crosses
    a column in few views, so that the median ignores it, unless it is a circle about the axis.
    """
    smooth = savgol_filter(np.asarray(projections), _STRIPE_COLUMNS, 2, axis=1)
    return projections - torch.from_numpy(np.median(projections - smooth, axis=0))
