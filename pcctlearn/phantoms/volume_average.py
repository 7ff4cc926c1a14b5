"""Average a sampled density over the voxels of another grid with conservation of mass."""

import numpy as np
import torch
from torch import Tensor

from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.validation import FloatArray


def averaged(volume: Tensor, source: VolumeGrid, target: VolumeGrid) -> Tensor:
    """Mean of a volume (…, z, y, x) over every voxel of another grid; zero beyond the volume."""
    first_cm = target.slices_cm[0], *target.index_to_cm[[1, 0], 2]
    origin_cm = source.slices_cm[0], *source.index_to_cm[[1, 0], 2]
    spacing_cm = np.array([1, -1, 1]) * source.spacing_cm  # rows run from the largest y
    first = (np.array(first_cm) - origin_cm) / spacing_cm
    step = np.divide(target.spacing_cm, source.spacing_cm)
    z, y, x = (
        torch.from_numpy(average_weights(*of_axis)).to(volume)
        for of_axis in zip(source.shape, target.shape, first, step, strict=True)
    )
    return torch.einsum("kz,jy,ix,...zyx->...kji", z, y, x, volume)


def average_weights(n_source: int, n_target: int, first: float, step: float) -> FloatArray:
    """Averaging weights (target, source) along one axis.

    Lengths are in source voxels: target voxel i has width ``step`` and center ``first + step · i``,
    source voxel j has width 1 and center j. With □_a a box of width a and area 1, the source is the
    density ρ(x) = Σ_j ρ_j k(x − j) with k = □₁ for a coarser target and k = □₁ ∗ □_{1−step} for a
    finer one, and

        w_ij = (1 / step) ∫_{voxel i} k(x − j) dx,   Σ_i step · w_ij = 1 for j within the target.

    The integral of ρ is kept for every ratio of sizes and every shift. Equal sizes, and a much
    finer target, give linear interpolation.
    """
    edges = first + step * (np.arange(n_target + 1) - 0.5)
    below = _kernel_integral(edges[:, None] - np.arange(n_source), max(0.0, 1 - step))
    return np.diff(below, axis=0) / step


def _kernel_integral(x: FloatArray, width: float) -> FloatArray:
    """∫ from −∞ to x of □₁ ∗ □_width."""
    if width < 1e-6:  # a single box; the formula below divides by the width
        return np.clip(x + 0.5, 0, 1)
    outer, inner = (1 + width) / 2, (1 - width) / 2
    x = np.clip(x, -outer, outer)
    parts = [np.maximum(x + shift, 0) ** 2 for shift in (outer, inner, -inner, -outer)]
    return (parts[0] - parts[1] - parts[2] + parts[3]) / (2 * width)
