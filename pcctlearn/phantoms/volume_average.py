"""Average a sampled density over the voxels of another grid, conserving mass."""

import numpy as np

from pcctlearn.validation import FloatArray


def average_weights(n_source: int, n_target: int, first: float, step: float) -> FloatArray:
    """(target, source) weights that average along one axis; they act on each axis in turn.

    Lengths are in source voxels: voxel i of the target is ``step`` wide and centred at
    ``first + step · i``, voxel j of the source is 1 wide and centred at j. With □_a a box of
    width a and area 1, the source is the density ρ(x) = Σ_j ρ_j □₁(x − j) where the target is
    coarser, and Σ_j ρ_j (□₁ ∗ □_{1−step})(x − j) where it is finer, and

        w_ij = (1 / step) ∫ over voxel i of the kernel of j,   Σ_i step · w_ij = 1 within the grid:

    the integral of ρ is kept for every ratio of sizes and every shift. Equal sizes give linear
    interpolation, and so does a target that is much finer.
    """
    edges = first + step * (np.arange(n_target + 1) - 0.5)
    below = _kernel_integral(edges[:, None] - np.arange(n_source), max(0.0, 1 - step))
    return np.diff(below, axis=0) / step


def _kernel_integral(x: FloatArray, width: float) -> FloatArray:
    """∫ from −∞ to x of □₁ ∗ □_width."""
    if width < 1e-6:  # a box alone; the form below divides by the width
        return np.clip(x + 0.5, 0, 1)
    outer, inner = (1 + width) / 2, (1 - width) / 2
    x = np.clip(x, -outer, outer)
    parts = [np.maximum(x + shift, 0) ** 2 for shift in (outer, inner, -inner, -outer)]
    return (parts[0] - parts[1] - parts[2] + parts[3]) / (2 * width)
