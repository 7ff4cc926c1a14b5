"""Iodine and water of a multi-energy phantom, from pixels that differ [2, Fig. 11]."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.base import Calibrator
from pcctlearn.calibration.material_correction import material_correction
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.beam_hardening import beam_hardening, spectra_above
from pcctlearn.decomposition.image_domain import ImageInverse, attenuation_behind
from pcctlearn.decomposition.polynomial import ranges
from pcctlearn.metrics.errors import Rows
from pcctlearn.metrics.images import region_difference, region_means
from pcctlearn.phantoms.ellipses import EllipsePhantom, voxel_centers
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.shapes import channels_first, channels_last
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.flawed_bench import (
    FanScan,
    FlawedBench,
    PixelCorrection,
    Plates,
    interpolated,
)
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid
from pcctlearn.units import MG_ML, hounsfield

log = logging.getLogger(__name__)

Maps = Float[Tensor, "material y x"]
Numbers = dict[str, float]

# [2, section 4.3.1]: iodine of the rods, and water of three regions, in mg/mL
_PUBLISHED = {
    "etb": ("2.07, 4.90, 9.88", "1006.5, 1015.9, 1022.0"),
    "sfr": ("1.14, 3.52, 7.43", "1019.7, 1035.6, 1060.1"),
}
_HEAD = ["pixels", "decomposition", "iodine", "[2]", "water", "[2]"]
_WAYS = {
    "polynomial": "polynomial",
    "likelihood": "likelihood",
    "images": "images",
    "images_behind_water": "images, behind water",
}


class EtbMaterialDecomposition:
    """Water and iodine maps of a noisy scan, with every calibration, in four ways.

    "polynomial": material polynomials of every pixel [2, eqs 21, 22]. "likelihood": maximum
    likelihood with the model of every pixel, where the calibration has one. "images": projections
    corrected for the hardening of water, reconstructed for each threshold, and a matrix at every
    voxel [2, eq. 25]; "images_behind_water" takes the attenuation behind ``behind_cm`` of water.
    "uncorrected" takes nominal pixels, "true" those of the simulation. Counts of plates and scan
    have noise. Pixels that a calibration flags are interpolated from their neighbours.

    Args:
        model: the nominal scanner; its materials, water and iodine, are the basis.
        geometry, grid: fan beam and images.
        phantom: a water cylinder with rods.
        calibrations: {name: calibrator}.
        errors: of the detector.
        decomposition: constructor of the decomposition layer for a model.
        range_g_cm2: {material: largest area density} of the basis, for the polynomials.
        plates_cm: {name of a calibration: its plates}, and "default" for all others.
        rods_cm: centers (x, y) of discs in the rods of iodine.
        water_cm: of discs in water.
        radius_cm: of the discs.
        behind_cm: of water, typical of the rays through the rods.
        plate_photons: that reach a pixel in air in each exposure of the plates.
        photons: in each view of the scan.
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
        plates_cm: Mapping[str, Plates],
        rods_cm: Sequence[Sequence[float]],
        water_cm: Sequence[Sequence[float]],
        radius_cm: float = 1.0,
        behind_cm: float = 16.0,
        plate_photons: float = 1e8,
        photons: float = 1e6,
        filter: str = "hamming",
        seed: int = 0,
    ) -> None:
        model.require_materials(["water", "iodine"])
        self.bench = FlawedBench(
            model, geometry, calibrations, errors, plates_cm, plate_photons, seed
        )
        self.model, self.geometry, self.grid, self.phantom = model, geometry, grid, phantom
        self.decomposition = decomposition
        self.range_g_cm2 = dict(range_g_cm2)
        ranges(self.range_g_cm2, model.materials)  # raises unless it names the basis
        self._iodine = phantom.materials.index("iodine")
        self.rods_cm = torch.tensor([list(place) for place in rods_cm], dtype=torch.float64)
        self.water_cm = torch.tensor([list(place) for place in water_cm], dtype=torch.float64)
        self.radius_cm, self.photons = radius_cm, photons
        plain = beam_hardening(spectra_above(model), model)
        behind = attenuation_behind(behind_cm, model, plain)
        self._inverses = {
            "images": ImageInverse.at(model.materials, plain.effective_keV),
            "images_behind_water": ImageInverse.of(behind),
        }
        self._points = voxel_centers(*grid.shape, grid.voxel_cm, dtype=torch.float64)
        self._reconstruct = fbp(geometry, grid, filter, truncation="cosine").double()

    def run(self, context: Context) -> StudyResults:
        """Scan, calibrate, decompose in all ways, and measure rods and water."""
        rays = channels_last(self.phantom.line_integrals(*self.geometry.rays())[None])[0]
        table = attenuation_table(self.phantom.materials, self.model.energies_keV)
        true = self.bench.pixels.spectral_model(self.model)
        (scan,) = self.bench.scans([true], rays, table, self.photons)
        numbers: Numbers = {}
        arrays: dict[str, Tensor | np.ndarray] = {}
        rows: list[list[str]] = []
        for name, correction in self.bench.corrections().items():
            log.info("decomposing with the pixels of %s", name)
            numbers[f"uncalibrated_pixels.{name}"] = float((~correction.good).sum())
            images, maps = self._maps(scan, correction)
            numbers |= self._uniformity(name, images, correction)
            for way, found in maps.items():
                measured = self._measured(found)
                key = f"{way}.{name}"
                numbers |= {f"{quantity}.{key}": value for quantity, value in measured.items()}
                arrays[f"maps/{way}/{name}"] = MG_ML * found
                rows.append(self._row(name, way, measured))
        return StudyResults(
            numbers=numbers,
            arrays=arrays,
            figures=["etb_materials.maps"],
            summary=(
                f"{self.geometry.n_columns} pixels, {self.geometry.n_views} views of "
                f"{self.photons:g} photons a pixel in air, plates of {self.bench.photons:g}. True "
                "water: 1000 mg/mL. [2] measured a phantom of 2, 5 and 10 mg/mL on a bench."
            ),
            tables=[Rows("iodine and water (mg/mL)", _HEAD, rows)],
            tabulated=numbers,
        )

    def _maps(self, scan: FanScan, known: PixelCorrection) -> tuple[Tensor, dict[str, Maps]]:
        """Images above each threshold in 1/cm, and {way: maps in g/cm³}."""
        p = scan.projections
        images = self._reconstructed(known.correct(p), known)
        grids = [self.grid] * len(images)
        maps = {way: inverse(list(images), grids) for way, inverse in self._inverses.items()}
        polynomials = material_correction(known.spectra, self.model, self.range_g_cm2)
        line_integrals = polynomials.line_integrals(known.mapping(p))
        maps["polynomial"] = self._reconstructed(line_integrals, known)
        if known.model is not None:
            # scaled to the air of the model, as by a flat field
            counts = scan.counts / scan.air * known.model.air()
            solution = self.decomposition(known.model)(channels_first(counts[None]))
            if failed := int((~solution.converged).sum()):
                log.warning("%d of %d rays were not decomposed", failed, counts[..., 0].numel())
            maps["likelihood"] = self._reconstructed(channels_last(solution.x)[0], known)
        return images, maps

    def _reconstructed(
        self, values: Float[Tensor, "view column channel"], known: PixelCorrection
    ) -> Float[Tensor, "channel y x"]:
        return self._reconstruct @ interpolated(values, known.good).movedim(-1, 0).contiguous()

    def _uniformity(self, name: str, images: Tensor, known: PixelCorrection) -> Numbers:
        """Largest difference of the water regions of each threshold [2, eq. 26]."""
        water = known.correct.water_per_cm
        edges_keV = self.model.thresholds.edges_keV.detach()[:-1].tolist()
        places = self._points, self.water_cm, self.radius_cm
        return {
            f"region_difference_HU_{keV:g}keV.{name}": region_difference(
                hounsfield(image, float(mu)), *places
            )
            for keV, image, mu in zip(edges_keV, images, water, strict=True)
        }

    def _measured(self, maps: Maps) -> Numbers:
        """Iodine of the rods and water of the regions in mg/mL, their errors, and the noise."""
        water, iodine = (MG_ML * one for one in maps)
        rods = region_means(iodine, self._points, self.rods_cm, self.radius_cm)
        regions = region_means(water, self._points, self.water_cm, self.radius_cm)
        true = MG_ML * self.phantom.densities_at(self.rods_cm)[self._iodine]
        center = self._points.square().sum(-1) <= self.radius_cm**2
        numbers = {
            f"iodine_{wanted:g}_mg_mL": value
            for wanted, value in zip(true.tolist(), rods.tolist(), strict=True)
        }
        numbers |= {f"water_{i}_mg_mL": value for i, value in enumerate(regions.tolist())}
        return numbers | {
            "iodine_error_max_mg_mL": (rods - true).abs().max().item(),
            "water_error_max_percent": ((regions - MG_ML).abs().max() / MG_ML * 100).item(),
            "iodine_sd_mg_mL": iodine[center].std().item(),
            "water_sd_mg_mL": water[center].std().item(),
        }

    def _row(self, name: str, way: str, measured: Numbers) -> list[str]:
        published = _PUBLISHED.get(name, ("", "")) if way == "polynomial" else ("", "")
        iodine = [v for k, v in measured.items() if re.fullmatch(r"iodine_[\d.]+_mg_mL", k)]
        water = [v for k, v in measured.items() if re.fullmatch(r"water_\d_mg_mL", k)]
        return [
            name.replace("_", " "),
            _WAYS[way],
            ", ".join(f"{value:.2f}" for value in iodine),
            published[0],
            ", ".join(f"{value:.1f}" for value in water),
            published[1],
        ]
