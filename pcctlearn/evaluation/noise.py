"""Noise of the maps and images of a scan, carried from that of its counts without sampling."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.decomposition.base import Decomposition
from pcctlearn.evaluation.count_noise import CountCovariance
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import Scan
from pcctlearn.scans.dead_pixels import filled
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.grids import SliceGrid
from pcctlearn.tomography.linear_operator import LinearOperator
from pcctlearn.tomography.projector import backprojector
from pcctlearn.units import MG_ML

_BODY_G_CM3 = 0.5

Covariance = Float[Tensor, "material material *voxel"]


@dataclass(frozen=True)
class RayNoise:
    """Covariance of the line integrals of every ray, zero where it is not known.

    It is not known for a ray that is not solved, or that lies on a limit of the decomposition.
    """

    covariance: Float[Tensor, "material material view *pixel"]
    known: Bool[Tensor, "view *pixel"]

    @classmethod
    def of(
        cls, decompose: Decomposition, scan: Scan, of_counts: CountCovariance, dead: Tensor
    ) -> "RayNoise":
        """The noise of one scan.

        Args:
            decompose: of the scan.
            scan: with counts and line integrals, a batch of one.
            of_counts: covariance of the counts that are decomposed.
            dead: pixels that were filled; they have the mean covariance of their neighbours.
        """
        counts = scan.at("counts" if scan.corrected_counts is None else "corrected_counts")
        x = scan.at("line_integrals")
        of_rays = decompose.covariance(counts, of_counts, x)[0].movedim((-2, -1), (0, 1))
        known = scan.at("converged")[0] & ~_on_limit(decompose, x)[0] | dead
        of_rays = torch.where(known, of_rays, 0.0)
        if dead.any():
            of_rays = filled(of_rays, dead)
        return cls(of_rays, known)

    def of_maps(self, variance: LinearOperator, geometry: Geometry, grid: SliceGrid) -> Covariance:
        """Covariance of the maps in every voxel, in (g/cm³)²; NaN where it is not known.

        It is not known where a ray of unknown covariance crosses the voxel, and, where truncated
        rows are extrapolated, outside the circle that is measured.

        Args:
            variance: ``fbp_variance`` of the reconstruction.
            geometry, grid: of the scan.
        """
        n = len(self.covariance)
        rows, columns = torch.tril_indices(n, n)
        pairs = variance @ self.covariance[rows, columns]
        result = pairs.new_empty(n, n, *pairs.shape[1:])
        result[rows, columns] = result[columns, rows] = pairs
        unknown = torch.zeros(grid.shape, dtype=torch.bool)
        if not self.known.all():
            crossed = backprojector(geometry, grid) @ (~self.known).to(pairs)
            unknown |= crossed > 0
        if any(geometry.is_truncated(grid)):
            unknown |= ~torch.from_numpy(geometry.fully_measured(grid))
        return result.masked_fill(unknown, torch.nan)


def _on_limit(decompose: Decomposition, x: Float[Tensor, "batch material *ray"]) -> Tensor:
    """Rays (batch, *ray) with a material on a limit of the decomposition."""
    limits = decompose.bounds()
    if limits is None:
        return torch.zeros_like(x[:, 0], dtype=torch.bool)
    lower, upper = x.new_tensor(limits).reshape(2, -1, *(1,) * (x.ndim - 2))
    return ((x <= lower) | (x >= upper)).any(1)


def noise_numbers(
    covariance: Covariance,
    maps: Float[Tensor, "material *voxel"],
    materials: tuple[str, ...],
    image: MonoenergeticImages,
) -> dict[str, float]:
    """Standard deviations in mg/mL and HU, and correlations, of the mean over the object.

    Also the percentage of the object's voxels whose noise is not known.
    """
    body = maps.nansum(0) > _BODY_G_CM3
    known = body & covariance[0, 0].isfinite()
    if not known.any():
        return {"noise_unknown_percent": 100.0} if body.any() else {}
    mean = covariance[..., known].mean(-1).double()
    sd = mean.diagonal().clamp(min=0).sqrt()
    numbers = {
        f"noise_{name}_mg_mL": MG_ML * value
        for name, value in zip(materials, sd.tolist(), strict=True)
    }
    for energy, value in zip(image.energies_keV, image.sd_hounsfield(mean).tolist(), strict=True):
        numbers[f"noise_vmi{energy:g}_HU"] = value
    for i, first in enumerate(materials):
        for j, second in enumerate(materials[:i]):
            correlation = mean[i, j] / (sd[i] * sd[j]).clamp(min=torch.finfo(sd.dtype).tiny)
            numbers[f"noise_correlation_{second}_{first}"] = correlation.item()
    unknown = 1 - known.sum().item() / body.sum().item()
    return numbers | {"noise_unknown_percent": 100 * unknown}
