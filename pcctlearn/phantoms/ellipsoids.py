"""Volumes made of ellipsoids, with exact line integrals."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pcctlearn.phantoms.ellipses import Ellipse, EllipsePhantom
from pcctlearn.tomography.grids import VolumeGrid


class EllipsoidPhantom(EllipsePhantom):
    """A sum of ellipsoids: ellipses with three components."""

    def volumes(self, grid: VolumeGrid, oversampling: int = 2) -> Float[Tensor, "material z y x"]:
        """Densities averaged over each voxel on oversampling³ points, in the default dtype."""
        k, (dz, _, _) = oversampling, grid.spacing_cm
        parts = (torch.arange(k) + 0.5) / k - 0.5  # of a voxel
        column, row = ((torch.arange(n)[:, None] + parts).flatten() for n in (grid.n_x, grid.n_y))
        (a, _, left), (_, b, top), _ = grid.index_to_cm.tolist()
        x, y = a * column + left, b * row + top
        volumes = torch.zeros(len(self.materials), *grid.shape)
        for ellipse, densities in zip(self.ellipses, self.densities.to(x.dtype), strict=True):
            center, reach = ellipse.center_cm, max(ellipse.semi_axes_cm[:2])
            columns, rows = (
                _blocks_within(positions, middle, reach, k)
                for positions, middle in ((x, center[0]), (y, center[1]))
            )
            if columns.start == columns.stop or rows.start == rows.stop:
                continue
            for index, z in enumerate(grid.slices_cm.tolist()):
                if abs(z - center[2]) > ellipse.semi_axes_cm[2] + dz:
                    continue
                heights = (z + parts * dz).tolist()
                inside = [_slice_of(ellipse, x[columns], y[rows], at) for at in heights]
                mean = avg_pool2d(torch.stack(inside).mean(0)[None], k)[0]
                box = tuple(slice(s.start // k, s.stop // k) for s in (rows, columns))
                volumes[:, index][:, *box] += densities[:, None, None] * mean
        return volumes


def _blocks_within(
    positions: Float[Tensor, "position"], middle: float, reach: float, k: int
) -> slice:
    """Slice of the positions within ``reach`` of ``middle``, extended to whole blocks of k."""
    within = ((positions - middle).abs() <= reach).nonzero().flatten()
    if len(within) == 0:
        return slice(0, 0)
    return slice(int(within[0]) // k * k, -(-int(within[-1] + 1) // k) * k)


def _slice_of(
    ellipsoid: Ellipse, x: Float[Tensor, "x"], y: Float[Tensor, "y"], z: float
) -> Float[Tensor, "y x"]:
    """1 inside, 0 outside, in the plane at height z."""
    grid = torch.meshgrid(y, x, indexing="ij")
    return ellipsoid.contains(torch.stack([grid[1], grid[0], torch.full_like(grid[0], z)], -1))


def head_phantom() -> EllipsoidPhantom:
    """A head of 15 × 19 × 22 cm: skull, brain, ventricles, air cells and small dense spheres.

    Ellipsoids in the style of Shepp and Logan, with densities of water and calcium in g/cm³. The
    head has no symmetry, and its spheres are outside the plane of the source orbit.
    """
    ellipsoids = [
        ((0.0, 0.0, 0.0), (7.5, 9.5, 11.0), (1.05, 0.45), 0.0),  # skull
        ((0.0, 0.1, 0.0), (6.9, 8.9, 10.4), (-0.02, -0.45), 0.0),  # replaced by brain
        ((-1.2, 1.0, 1.0), (0.8, 2.4, 1.6), (-0.03, 0.0), 0.3),  # ventricles
        ((1.3, 0.8, 1.0), (0.7, 2.2, 1.4), (-0.03, 0.0), -0.25),
        ((0.3, 7.3, -3.0), (1.6, 0.9, 1.2), (-1.02, 0.0), 0.0),  # frontal sinus
        ((2.6, -3.2, 0.5), (1.4, 1.0, 1.2), (0.03, 0.0), 0.6),  # hemorrhage
        ((-3.2, -3.0, 2.0), (0.5, 0.5, 0.5), (0.1, 0.3), 0.0),  # calcifications
        ((2.8, 3.4, -2.0), (0.35, 0.35, 0.35), (0.1, 0.3), 0.0),
        ((0.4, -5.6, 3.2), (0.25, 0.25, 0.25), (0.1, 0.3), 0.0),
    ]
    return EllipsoidPhantom(
        [Ellipse(center, axes, rho, tilt) for center, axes, rho, tilt in ellipsoids]
    )
