"""A known head in a cone beam, reconstructed by five methods."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from math import degrees
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from rich.progress import track
from torch import Tensor, nn

from pcctlearn.metrics.correction import BODY_HU
from pcctlearn.metrics.errors import rms
from pcctlearn.phantoms.ellipsoids import EllipsoidPhantom
from pcctlearn.physics.attenuation import attenuation_table, mass_attenuation
from pcctlearn.physics.noise import draw_counts
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.shapes import Energies
from pcctlearn.tomography.cone_projector import ConeProjector
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.geometry.setup import Setup
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.tomography.iterative.monitor import Reconstruction
from pcctlearn.tomography.iterative.subsets import of_views, ordered_subsets
from pcctlearn.tomography.linear_operator import Diagonal
from pcctlearn.tomography.projector import projector
from pcctlearn.units import hounsfield
from pcctlearn.validation import require_positive

log = logging.getLogger(__name__)

Sinogram = Float[Tensor, "view row column"]
Volume = Float[Tensor, "z y x"]
Solver = Callable[..., Reconstruction]
Numbers = dict[str, float]
Arrays = dict[str, Tensor | np.ndarray]

METHODS = ("fdk", "sirt", "os_sart", "cgls", "fista_tv")
ERRORS = ("rmse_HU", "rmse_in_soft_tissue_HU")
_SOFT_TISSUE_HU = (-50.0, 100.0)


class PhantomScan(NamedTuple):
    """A measured sinogram, the true volume, and the noise of the sinogram."""

    sinogram: Sinogram
    truth_HU: Volume
    numbers: Numbers


class ConeReconstruction:
    """Reconstruct exact monoenergetic projections of a phantom, with photon noise.

    Errors of a volume are due to noise, view sampling, voxel size and method alone.

    Args:
        geometry: a cone beam.
        grid: grid of the reconstructed volumes.
        phantom: the object.
        fdk, sirt, os_sart, cgls, fista_tv: the methods, each with its parameters.
        methods: names of the methods to run, in this order.
        n_subsets: number of view subsets of OS-SART.
        energy_keV: photon energy.
        photons: photons per pixel and view with nothing in the beam; ``None``: no noise.
        backend: as in ``projector``.
        seed: seed of the photon noise.
    """

    def __init__(
        self,
        geometry: ConeBeam,
        grid: VolumeGrid,
        phantom: EllipsoidPhantom,
        fdk: Callable[..., nn.Module],
        sirt: Solver,
        os_sart: Solver,
        cgls: Solver,
        fista_tv: Solver,
        methods: Sequence[str] = METHODS,
        n_subsets: int = 10,
        energy_keV: float = 60.0,
        photons: float | None = 1e5,
        backend: str = "auto",
        seed: int = 0,
    ) -> None:
        if not isinstance(geometry, ConeBeam):
            raise TypeError(
                f"cone_reconstruction needs a cone beam, got {type(geometry).__name__}: use "
                "tomography=cone"
            )
        if not isinstance(phantom, EllipsoidPhantom):
            raise TypeError(
                "cone_reconstruction needs a phantom of ellipsoids, got "
                f"{type(phantom).__name__}: use phantoms=head"
            )
        if not methods or not set(methods) <= set(METHODS):
            raise ValueError(
                f"methods must be one or more of {', '.join(METHODS)}, got {list(methods)}"
            )
        if photons is not None:
            require_positive(photons=photons)
        self.geometry, self.grid = geometry, grid
        self.phantom, self.n_subsets = phantom, n_subsets
        self.energy_keV, self.photons, self.seed = energy_keV, photons, seed
        self.backend = backend
        self.attenuation = attenuation_table(phantom.materials, [energy_keV])[:, 0]
        self.water = float(mass_attenuation("water", [energy_keV]))  # 1/cm, at 1 g/cm³
        known = {"fdk": fdk, "sirt": sirt, "os_sart": os_sart, "cgls": cgls, "fista_tv": fista_tv}
        self.solvers = {name: self._solver(name, known[name]) for name in methods}

    @property
    def result_names(self) -> list[str]:
        """Names of the numbers that ``run`` returns."""
        iterative = ("iterations", "relative_residual")
        return [
            "sinogram_noise_relative",
            "rays_without_a_photon",
            *(
                f"{name}_{result}"
                for name in self.solvers
                for result in (*ERRORS, *(() if name == "fdk" else iterative), "time_s")
            ),
        ]

    def run(self, context: Context) -> StudyResults:
        """Simulate the scan, reconstruct it by each method, and compare with the truth."""
        device = context.trainer.strategy.root_device
        if self.backend == "triton" and device.type == "cpu":
            raise ValueError("backend=triton runs on a CUDA device: add trainer=gpu")
        scan = self.scan(device)
        numbers, arrays = dict(scan.numbers), self._shown(scan.truth_HU)
        for name in self.solvers:
            fitted, seconds = self.fit(name, scan)
            more_numbers, more_arrays = self.measure(name, scan, fitted)
            numbers |= more_numbers | {f"{name}_time_s": seconds}
            arrays |= more_arrays
        return self.report(numbers, arrays)

    def scan(self, device: torch.device) -> PhantomScan:
        """Exact line integrals at one energy, their noisy measurement, and the true volume."""
        log.info("%s\n%s", self.geometry, self.grid)
        generator = torch.Generator().manual_seed(self.seed)
        exact = exact_sinogram(self.phantom, self.geometry, self.attenuation)
        measured, dark = measured_sinogram(exact, self.photons, generator)
        if dark.any():
            log.warning("%d rays registered no photon: raise study.photons", int(dark.sum()))
        densities = self.phantom.volumes(self.grid).double()
        truth = hounsfield(torch.einsum("m,mzyx->zyx", self.attenuation, densities), self.water)
        numbers = {
            "sinogram_noise_relative": float((measured - exact).norm() / exact.norm()),
            "rays_without_a_photon": float(dark.sum()),
        }
        return PhantomScan(measured.to(device, torch.get_default_dtype()), truth, numbers)

    def fit(self, name: str, scan: PhantomScan) -> tuple[Reconstruction, float]:
        """The reconstruction by one method, and its time in seconds."""
        log.info("%s", name)
        began = perf_counter()
        fitted = self.solvers[name](scan.sinogram, progress=True)
        self._hounsfield(fitted)  # waits until a GPU has finished
        return fitted, perf_counter() - began

    def measure(
        self, name: str, scan: PhantomScan, fitted: Reconstruction
    ) -> tuple[Numbers, Arrays]:
        """Errors of one method; of an iterative one also after fewer iterations."""
        volume = self._hounsfield(fitted)
        errors = rms_errors(volume, scan.truth_HU)
        numbers = dict(zip((f"{name}_{kind}" for kind in ERRORS), errors, strict=True))
        arrays: Arrays = {**_central(volume, name)}
        if n := fitted.n_iterations:
            numbers[f"{name}_iterations"] = float(n)
            numbers[f"{name}_relative_residual"] = fitted.residuals[-1]
            # solvers keep their last volume only, so each point is a separate run
            solve, fewer = self.solvers[name], sorted({n // 8, n // 4, n // 2} - {0})
            curve = [
                (
                    k,
                    *rms_errors(
                        self._hounsfield(solve(scan.sinogram, max_iterations=k)), scan.truth_HU
                    ),
                )
                for k in track(fewer, f"{name}, errors after fewer iterations")
            ]
            arrays[f"residuals/{name}"] = torch.tensor(fitted.residuals)
            arrays[f"errors/{name}"] = torch.tensor([*curve, (n, *errors)]).mT
        return numbers, arrays

    def report(self, numbers: Numbers, arrays: Arrays) -> StudyResults:
        """Numbers, arrays and figures of the study."""
        figures = ["setup", "central_slices"]
        if any(name.startswith("residuals/") for name in arrays):
            figures.append("convergence")
        noise = "no noise" if self.photons is None else f"{self.photons:g} photons per pixel"
        return StudyResults(
            numbers,
            arrays,
            [f"cone_reconstruction.{name}" for name in figures],
            f"{self.geometry.n_views} views over {degrees(self.geometry.arc_rad):.4g}°, {noise} at "
            f"{self.energy_keV:g} keV, {' × '.join(map(str, self.grid.shape))} voxels.",
        )

    def _shown(self, truth_HU: Volume) -> Arrays:
        """The setup and the truth, for the figures."""
        setup = Setup.of(self.geometry, self.grid, max(1, self.geometry.n_views // 6))
        return {
            "slices/edges_cm": setup.edges_cm,
            **{f"setup/{name}": values for name, values in setup._asdict().items()},
            **_central(truth_HU, "truth"),
        }

    def _solver(self, name: str, method: Callable[..., Any]) -> Solver:
        """The function from a sinogram to a reconstruction; wrong options raise an error here."""
        if name == "fdk":
            operator = method(
                self.geometry, self.grid, backend=self.backend, water_density=self.water
            )
            return lambda y, **_: Reconstruction(operator.to(y.device) @ y, [], torch.tensor(True))
        one_voxel, one_ray = Diagonal(torch.ones(1, 1, 1)), torch.zeros(1, 1, 1)
        if name == "os_sart":
            method([one_voxel], [one_ray])
            n, beams = self.n_subsets, ordered_subsets(self.geometry, self.n_subsets)
            parts = [ConeProjector(beam, self.grid, self.backend) for beam in beams]
            return lambda y, **options: method(parts, [y[i::n] for i in range(n)], **options)
        if name == "fista_tv":
            method = partial(method, spacing_cm=self.grid.spacing_cm)
        method(one_voxel, one_ray)
        return partial(method, projector(self.geometry, self.grid, self.backend))

    def _hounsfield(self, result: Reconstruction) -> Volume:
        return hounsfield(result.x.cpu().double(), self.water)


def exact_sinogram(phantom: EllipsoidPhantom, beam: ConeBeam, attenuation: Energies) -> Sinogram:
    """l = Σ_m μ_m ∫ ρ_m ds along every ray, without voxels; a few views at a time."""
    line_integrals = torch.empty(beam.shape, dtype=torch.float64)
    parts = np.array_split(np.arange(beam.n_views), max(1, beam.n_views // 8))
    for views in track(parts, "exact line integrals"):
        area_densities = phantom.line_integrals(*of_views(beam, views.tolist()).rays())
        line_integrals[views] = torch.einsum("m,m...->...", attenuation, area_densities)
    return line_integrals


def measured_sinogram(
    line_integrals: Sinogram, photons: float | None, generator: torch.Generator
) -> tuple[Sinogram, Bool[Tensor, "view row column"]]:
    """−ln(n / N) with n ~ Poisson(N exp(−l)), and a mask of rays with n = 0, taken as n = 0.5."""
    if photons is None:
        return line_integrals, torch.zeros_like(line_integrals, dtype=torch.bool)
    counts = draw_counts(photons * torch.exp(-line_integrals), generator)
    return -torch.log(counts.clamp(min=0.5) / photons), counts == 0


def rms_errors(volume_HU: Volume, truth_HU: Volume) -> list[float]:
    """RMS error in the head, dominated by the edges of the skull, and in its soft tissue."""
    error = volume_HU - truth_HU
    low, high = _SOFT_TISSUE_HU
    return [rms(error[truth_HU > BODY_HU]), rms(error[(low < truth_HU) & (truth_HU < high)])]


def _central(volume_HU: Volume, name: str) -> dict[str, Tensor]:
    """Central slices as displayed: the first row on top, the smallest x or y on the left."""
    z, y, x = (n // 2 for n in volume_HU.shape)
    planes = {
        "axial": volume_HU[z],
        "coronal": volume_HU[:, y].flip(0),
        "sagittal": volume_HU[:, :, x].flip(0, 1),
    }
    return {f"{plane}/{name}_HU": image for plane, image in planes.items()}
