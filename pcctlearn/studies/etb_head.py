"""A head scanned by pixels that differ, corrected for water and for bone [2, Figs 9 and 11]."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from pcctlearn.calibration.base import Calibrator
from pcctlearn.decomposition.beam_hardening import beam_hardening, spectra_above
from pcctlearn.decomposition.bone_correction import BONE_G_CM3, LEAST_OVER_WATER, bone_correction
from pcctlearn.decomposition.image_domain import ImageInverse
from pcctlearn.metrics.errors import Rows
from pcctlearn.metrics.images import region_means
from pcctlearn.phantoms.ellipses import voxel_centers
from pcctlearn.phantoms.heads import FIELD_CM, head
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.studies.flawed_bench import (
    FanProjections,
    FlawedBench,
    PixelCorrection,
    Plates,
    interpolated,
)
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid
from pcctlearn.tomography.projector import projector
from pcctlearn.units import MG_ML

log = logging.getLogger(__name__)

Images = Float[Tensor, "channel y x"]
Numbers = dict[str, float]
Sectors = list[Bool[Tensor, "y x"]]

_DENSE_G_CM3 = 0.25  # calcium of voxels that are bone
_N_SECTORS = 5
# [2, section 4.3.1]: largest differences of regions above 40 and 60 keV in HU
_PUBLISHED = {"uncorrected": "27.9, 17.0", "sfr": "9.5, 11.1", "etb": "3.2, 4.2"}
_STEPS = ("water", "bone")


class EtbHead:
    """Images of a noisy scan of a procedural head, corrected with every calibration.

    Projections of counts above each threshold are corrected for the hardening of water, then for
    that of bone [2, eqs 23, 24], and reconstructed; images corrected for bone are decomposed into
    water and calcium at every voxel [2, eq. 25], which gives monoenergetic images. The references
    are images of the true line integrals at the effective energies and at ``vmi_keV``: tissue and
    bone of the head are not uniform, unlike those of the phantom of [2], so that differences of
    regions are taken from the difference of an image and its reference. The head is projected from
    smaller voxels than those of the images.

    Args:
        model: the nominal scanner; its materials are water and calcium.
        geometry, grid: fan beam and images.
        calibrations: {name: calibrator}.
        errors: of the detector.
        plates_cm: {name of a calibration: its plates}, and "default" for all others.
        regions_cm: centers (x, y) of discs in the brain.
        radius_cm: of the discs.
        head_seed: of the procedural head.
        height_cm: of the slice.
        voxel_cm: of the head.
        least_over_water, n_passes: of the correction for bone (``BoneCorrection.of_images``).
        bone_margin_voxels: width of the edge of bone that its sectors leave out, about the
            resolution of the images; "bone_with_edge" leaves out one voxel less.
        vmi_keV: energies of the monoenergetic images.
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
        calibrations: Mapping[str, Calibrator],
        errors: DetectorErrors,
        plates_cm: Mapping[str, Plates],
        regions_cm: Sequence[Sequence[float]],
        radius_cm: float = 0.8,
        head_seed: int = 2,
        height_cm: float = 0.0,
        voxel_cm: float = 0.025,
        least_over_water: float = LEAST_OVER_WATER,
        n_passes: int = 2,
        bone_margin_voxels: int = 2,
        vmi_keV: Sequence[float] = (51.0, 78.0),
        plate_photons: float = 1e8,
        photons: float = 2e6,
        filter: str = "hamming",
        seed: int = 0,
    ) -> None:
        model.require_materials(["water", "calcium"])
        self.bench = FlawedBench(
            model, geometry, calibrations, errors, plates_cm, plate_photons, seed
        )
        self.model, self.geometry, self.grid = model, geometry, grid
        n_y, n_x = (round(side / voxel_cm) for side in FIELD_CM)
        self.field = VolumeGrid(1, n_y, n_x, voxel_cm, (height_cm, 0.0, 0.0))
        self.head_seed, self.photons = head_seed, photons
        self.regions_cm = torch.tensor([list(place) for place in regions_cm], dtype=torch.float64)
        self.radius_cm = radius_cm
        if bone_margin_voxels < 1:
            raise ValueError(f"bone_margin_voxels must be 1 or more, got {bone_margin_voxels}")
        self.bone_margin_voxels = bone_margin_voxels
        self.least_over_water, self.n_passes = least_over_water, n_passes
        self.image = MonoenergeticImages(model.materials, vmi_keV)
        self._points = voxel_centers(*grid.shape, grid.voxel_cm, dtype=torch.float64)
        self._reconstruct = fbp(geometry, grid, filter, truncation="cosine").double()
        self._project = projector(geometry, grid).double()

    @torch.no_grad()
    def run(self, context: Context) -> StudyResults:
        """Scan, calibrate, correct, decompose, and compare with the true head."""
        rays = self._line_integrals()
        true = self.bench.pixels.spectral_model(self.model)
        table = self.model.attenuation.double()
        (scan,) = self.bench.scans([true], rays, table, self.photons)
        plain = beam_hardening(spectra_above(self.model), self.model)
        self._water = plain.water_per_cm[:, None, None]
        self._inverse = ImageInverse.at(self.model.materials, plain.effective_keV)
        at_keV = attenuation_table(self.model.materials, plain.effective_keV)
        reference, maps = (self._images(values) for values in (rays @ at_keV, rays))
        margin = self.bone_margin_voxels
        sectors = {
            "bone": bone_sectors(maps[1], margin),
            "bone_with_edge": bone_sectors(maps[1], margin - 1),
        }
        numbers: Numbers = {}
        arrays: dict[str, Tensor | np.ndarray] = self._shown("reference", reference, maps)
        for name, correction in self.bench.corrections().items():
            log.info("correcting with the pixels of %s", name)
            numbers[f"uncalibrated_pixels.{name}"] = float((~correction.good).sum())
            images = self._corrected(scan.projections, correction)
            found = self._inverse(list(images["bone"]), [self.grid] * len(reference))
            for step, image in images.items():
                numbers |= self._uniformity(f"{step}.{name}", image, reference)
            numbers |= self._of_maps(name, found, maps, sectors)
            arrays |= self._shown(name, images["bone"], found)
            arrays[f"images/water/{name}"] = 1000 * (images["water"] / self._water - 1)
        return StudyResults(
            numbers=numbers,
            arrays=arrays,
            figures=["etb_head.images", "etb_head.decomposed"],
            summary=(
                f"{self.geometry.n_columns} pixels, {self.geometry.n_views} views of "
                f"{self.photons:g} photons a pixel in air, plates of {self.bench.photons:g}. "
                "Regions are those of differences from the true head; [2] measured another phantom "
                "on a bench, and its own images."
            ),
            tables=self._tables(numbers),
            tabulated=numbers,
        )

    def _line_integrals(self) -> Float[Tensor, "view column material"]:
        """Of the head, in g/cm²."""
        log.info("projecting the head")
        maps = head(self.head_seed, self.field, oversampling=1).double()
        project = projector(self.geometry, self.field).double()
        return (project @ maps)[:, :, 0].movedim(0, -1).contiguous()

    def _corrected(self, p: FanProjections, known: PixelCorrection) -> dict[str, Images]:
        """Images above each threshold in 1/cm, corrected for water, and also for bone."""
        water = interpolated(known.correct(p), known.good)
        correct = bone_correction(known.spectra, self.model, known.hardening, BONE_G_CM3["calcium"])
        bone = correct.of_images(
            water, self._reconstruct, self._project, self.least_over_water, self.n_passes
        )
        return {
            "water": self._images(water),
            "bone": self._images(interpolated(bone, known.good)),
        }

    def _images(self, values: Float[Tensor, "view column channel"]) -> Images:
        return self._reconstruct @ values.movedim(-1, 0).contiguous()

    def _regions(self, image: Float[Tensor, "y x"]) -> Float[Tensor, "region"]:
        return region_means(image, self._points, self.regions_cm, self.radius_cm)

    def _uniformity(self, key: str, images: Images, reference: Images) -> Numbers:
        """Largest difference of regions [2, eq. 26], and largest error of a region, in HU."""
        numbers: Numbers = {}
        edges_keV = self.model.thresholds.edges_keV.detach()[:-1].tolist()
        errors = 1000 * (images - reference) / self._water
        for keV, error in zip(edges_keV, errors, strict=True):
            means = self._regions(error)
            numbers[f"region_difference_HU_{keV:g}keV.{key}"] = (means.max() - means.min()).item()
            numbers[f"region_error_max_HU_{keV:g}keV.{key}"] = means.abs().max().item()
        return numbers

    def _of_maps(
        self, name: str, maps: Images, true: Images, sectors: Mapping[str, Sectors]
    ) -> Numbers:
        """Errors of calcium in sectors of bone, and of monoenergetic images in the brain."""
        numbers: Numbers = {}
        for which, masks in sectors.items():
            share = torch.stack([maps[1][one].mean() / true[1][one].mean() for one in masks])
            range_percent = 100 * (share.max() / share.min() - 1)
            numbers[f"{which}_range_percent.{name}"] = range_percent.item()
            numbers[f"{which}_error_max_percent.{name}"] = 100 * (share - 1).abs().max().item()
        errors = self.image.hounsfield(maps[None])[0] - self.image.hounsfield(true[None])[0]
        for keV, error in zip(self.image.energies_keV, errors, strict=True):
            means = self._regions(error)
            difference = (means.max() - means.min()).item()
            numbers[f"region_difference_HU_vmi{keV:g}.{name}"] = difference
            numbers[f"region_error_max_HU_vmi{keV:g}.{name}"] = means.abs().max().item()
        return numbers

    def _shown(self, name: str, images: Images, maps: Images) -> dict[str, Tensor | np.ndarray]:
        return {
            f"images/bone/{name}": 1000 * (images / self._water - 1),
            f"maps/{name}": MG_ML * maps,
            f"vmi/{name}": self.image.hounsfield(maps[None])[0],
        }

    def _tables(self, numbers: Numbers) -> list[Rows]:
        edges_keV = self.model.thresholds.edges_keV.detach()[:-1].tolist()
        vmis = [f"vmi{keV:g}" for keV in self.image.energies_keV]
        names = ["uncorrected", *self.bench.calibrations, "true"]

        def listed(start: str, ends: Sequence[str]) -> str:
            return ", ".join(f"{numbers[start + end]:.1f}" for end in ends)

        rows = []
        for name in names:
            regions = [
                listed("region_difference_HU_", [f"{keV:g}keV.{step}.{name}" for keV in edges_keV])
                for step in _STEPS
            ]
            vmi = listed("region_difference_HU_", [f"{one}.{name}" for one in vmis])
            bone = f"{numbers[f'bone_range_percent.{name}']:.2f}"
            published = _PUBLISHED.get(name, "")
            rows.append([name.replace("_", " "), *regions, published, vmi, bone])
        energies = " and ".join(f"{keV:g}" for keV in edges_keV)
        head = ["pixels", "water", "and bone", "[2]", "VMI", "bone (%)"]
        title = f"largest differences of brain regions above {energies} keV (HU)"
        return [Rows(title, head, rows)]


def bone_sectors(calcium: Float[Tensor, "y x"], margin_voxels: int) -> Sectors:
    """Five equal sectors around the center of the bone, without the voxels at its edge.

    Args:
        calcium: true density in g/cm³.
        margin_voxels: width of the edge.

    Raises:
        ValueError: a sector holds no bone.
    """
    dense = (calcium > _DENSE_G_CM3).numpy()
    if margin_voxels > 0:  # ndimage repeats the erosion without end for 0
        dense = ndimage.binary_erosion(dense, iterations=margin_voxels)
    y, x = np.nonzero(dense)
    if not len(y):
        raise ValueError(
            "no voxel of the head is bone after its edge is left out: choose another slice, such "
            "as study.height_cm=0.0, or a finer grid"
        )
    angle = np.arctan2(y - y.mean(), x - x.mean())
    number = np.floor((angle + np.pi) / (2 * np.pi) * _N_SECTORS).clip(0, _N_SECTORS - 1)
    sectors = []
    for sector in range(_N_SECTORS):
        mask = torch.zeros_like(calcium, dtype=torch.bool)
        mask[y[number == sector], x[number == sector]] = True
        if not mask.any():
            raise ValueError(
                f"sector {sector} of {_N_SECTORS} around the head holds no bone: choose another "
                "slice, such as study.height_cm=0.0"
            )
        sectors.append(mask)
    return sectors
