"""The variance of every voxel, against the matrix of the reconstruction."""

from dataclasses import replace
from math import pi, prod

import pytest
import torch
from support.cones import SMALL_CONES
from support.truth import SMALL, SMALL_FAN, SMALL_PARALLEL, sinogram

from pcctlearn.testing import check_adjoint, check_gradient, check_linear
from pcctlearn.tomography.fbp import fbp
from pcctlearn.tomography.filters import FILTERS
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import ImageGrid, VolumeGrid
from pcctlearn.tomography.truncation import WaterExtended
from pcctlearn.tomography.variance import fbp_variance

# more views than in the other tests, so that listed and short scans measure every line
FAN = replace(SMALL_FAN, n_views=24)
GAPS = replace(
    FAN, view_angles_rad=tuple(torch.linspace(0, 2 * pi, 31, dtype=torch.float64)[:-3].tolist()),
    n_views=28,
)  # fmt: skip
CASES = {
    "parallel": (SMALL_PARALLEL, SMALL),
    "fan": (FAN, SMALL),
    "short fan": (replace(FAN, arc_rad=1.7 * pi, start_rad=0.4), SMALL),
    "fan with a gap": (GAPS, SMALL),
    "fan onto a volume": (FAN, VolumeGrid(1, 5, 6, (0.3, 0.5, 0.6), (0.1, 0.2, -0.1))),
    "voxels beyond the detector": (FAN, ImageGrid(13, 13, 0.5)),
    **{f"cone, {name}": case for name, case in SMALL_CONES.items()},
}


def matrix(A):
    """A (voxel, ray), column by column."""
    n = prod(A.in_shape)
    columns = A @ torch.eye(n, dtype=torch.float64).reshape(n, *A.in_shape)
    return columns.reshape(n, -1).mT


@pytest.mark.filterwarnings("ignore:truncated")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("filter_name", ["ramp", "hann"])
def test_it_is_the_diagonal_of_the_covariance_of_the_image(case, filter_name):
    A = fbp(*case, filter_name, truncation="cosine")
    v = torch.rand(A.in_shape, dtype=torch.float64) * torch.logspace(-3, 3, A.in_shape[-1])
    exact = (matrix(A) ** 2 @ v.flatten()).reshape(A.out_shape)
    found = fbp_variance(*case, filter_name, truncation="cosine") @ v
    assert (exact > 0).any()
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-12 * float(exact.max()))


@pytest.mark.parametrize("name", ["fan", "cone, offsets", "cone, short scan"])
def test_it_is_a_linear_operator(name):
    operator = fbp_variance(*CASES[name])
    check_linear(operator)
    check_adjoint(operator)
    check_gradient(operator)


@pytest.mark.parametrize("filter_name", FILTERS)
def test_covariances_are_carried_as_variances_are(filter_name):
    """Var(a + b) = Var(a) + 2 Cov(a, b) + Var(b), also where the covariance is negative."""
    operator = fbp_variance(*CASES["short fan"], filter_name)
    root = torch.randn(*operator.in_shape, 2, 2, dtype=torch.float64)
    of_rays = (root @ root.mT).movedim((-2, -1), (0, 1))
    of_voxels = operator @ of_rays
    total = operator @ of_rays.sum((0, 1))
    torch.testing.assert_close(of_voxels.sum((0, 1)), total)
    correlation = of_voxels[0, 1] / (of_voxels[0, 0] * of_voxels[1, 1]).sqrt()
    assert (correlation.abs() < 1).all()


@pytest.mark.filterwarnings("ignore:truncated")
def test_columns_extrapolated_by_water_have_no_noise():
    """It is exact for noise of the measured columns, the extrapolated ones being held."""
    beam, grid = CASES["voxels beyond the detector"]
    reconstruct = fbp(beam, grid)
    n_before, n_after = reconstruct.extend.n_before, reconstruct.extend.n_after
    assert min(n_before, n_after) > 0
    A = matrix(reconstruct.reconstruct).reshape(-1, *reconstruct.reconstruct.in_shape)
    measured = A[..., n_before : A.shape[-1] - n_after].flatten(1)
    v = torch.rand(reconstruct.in_shape, dtype=torch.float64)
    exact = (measured**2 @ v.flatten()).reshape(grid.shape)
    torch.testing.assert_close(fbp_variance(beam, grid) @ v, exact, rtol=1e-9, atol=0)


@pytest.mark.physics
@pytest.mark.filterwarnings("ignore:truncated")
def test_columns_extrapolated_by_water_do_not_matter_in_the_measured_circle():
    """300 noisy sinograms of an ellipse that is wider than the detector."""
    beam, grid = FanBeam(120, 64, 0.554, 62.5, 109.7), ImageGrid(64, 64, 0.5)
    reconstruct = fbp(beam, grid)
    assert isinstance(reconstruct, WaterExtended)
    p = sinogram(beam, [(0.5, 0.3, 12.0, 9.6, 0.0, 1.0)])
    sd, generator = 0.02 * torch.exp(p / 20), torch.Generator().manual_seed(0)
    noise = (torch.randn(p.shape, generator=generator) for _ in range(300))
    drawn = torch.stack([reconstruct @ (p + sd * one) for one in noise]).var(0)
    found = fbp_variance(beam, grid) @ sd**2
    measured = torch.from_numpy(beam.fully_measured(grid))
    inside, outside = (found[m].mean() / drawn[m].mean() for m in (measured, ~measured))
    assert inside.item() == pytest.approx(1, abs=0.01)
    assert outside < 0.9


def test_single_precision_keeps_small_variances_beside_large_ones():
    case = CASES["cone, short scan"]
    v = torch.logspace(-6, 6, case[0].n_columns, dtype=torch.float64).expand(case[0].shape)
    exact = fbp_variance(*case) @ v
    found = fbp_variance(*case) @ v.float()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)
