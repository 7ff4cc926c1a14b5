"""Projectors of other libraries agree with ours; a stand-in replaces LEAP if it is missing."""

import copy
import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.cones import SMALL_CONES

from pcctlearn.testing import check_adjoint, check_gradient
from pcctlearn.tomography.adapters.diffct import DiffctConeProjector
from pcctlearn.tomography.adapters.leap import LeapConeProjector
from pcctlearn.tomography.cone_projector import ConeProjector
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

VOLUME = VolumeGrid(24, 28, 30, (0.25, 0.2, 0.2), center_cm=(0.3, 0.1, -0.2))
BEAM = ConeBeam(
    4, 26, 36, (0.45, 0.4), 30.0, 50.0, offset_cm=0.3, row_offset_cm=0.5,
    axis_offset_cm=0.4, start_rad=0.3,
)  # fmt: skip


class StandIn:
    """LEAP according to its manual: rays in mm, y increases with the row, results in place."""

    libprojectors: object | None = object()

    def set_conebeam(self, *arguments):
        *_, self.phis, self.sod, self.sdd, self.tau = arguments
        _, rows, columns, height, width, center_row, center_column = arguments[:7]
        self.u = (torch.arange(columns) - center_column) * width / self.sdd
        self.v = (torch.arange(rows) - center_row)[:, None] * height / self.sdd
        assert self.phis.dtype == np.float32
        return self.sdd > self.sod

    def set_volume(self, n_x, n_y, n_z, width, height, *middle):
        self.middle, self.step = torch.tensor(middle), width / 2
        self.half = (torch.tensor([n_x, n_y, n_z]) - 1) / 2 * torch.tensor([width, width, height])
        return True

    def set_diameterFOV(self, d):
        self.diameter = d
        return True

    def set_projector(self, which):
        return which == "SF"

    def set_gpu(self, which):
        self.gpu = which
        return False  # as in a build without CUDA

    def rays(self):
        """Sources R θ − τ θ⊥, and directions −θ + u θ⊥ + v z, for θ = (sin φ, −cos φ)."""
        phi = torch.from_numpy(self.phis).double().deg2rad()[:, None, None]
        zero, shape = 0 * phi, (len(phi), len(self.v), len(self.u), 3)
        theta = torch.stack([phi.sin(), -phi.cos(), zero], -1)
        across = torch.stack([phi.cos(), phi.sin(), zero], -1)
        up = torch.tensor([0.0, 0.0, 1.0])
        directions = -theta + self.u[:, None] * across + self.v[..., None] * up
        return (self.sod * theta - self.tau * across).expand(shape), directions

    def line_integrals(self, f):
        sources, directions = self.rays()
        reach = self.half.norm() + self.middle.norm()
        depths = torch.arange(float(self.sod - reach), float(self.sod + reach), self.step)
        points = sources + depths[:, None, None, None, None] * directions
        places = ((points - self.middle) / self.half).flatten(0, 1)[None]
        samples = torch.nn.functional.grid_sample(
            f[None, None].double(), places, align_corners=True
        )
        sums = samples.reshape(points.shape[:-1]).sum(0)
        return (self.step * directions.norm(dim=-1) * sums).float()

    def project(self, g, f):
        assert g.is_contiguous()
        assert f.is_contiguous()
        return g.copy_(self.line_integrals(f))

    def backproject(self, g, f):
        f.copy_(torch.func.vjp(self.line_integrals, torch.zeros_like(f))[1](g)[0])
        return g.zero_()  # LEAP modifies it in place


@pytest.fixture
def leap(monkeypatch):
    monkeypatch.setitem(sys.modules, "leapctype", SimpleNamespace(tomographicModels=StandIn))
    return LeapConeProjector


@pytest.fixture(params=["diffct", "leapctype", "stand-in"])
def peer(request):
    if request.param == "stand-in":
        return request.getfixturevalue("leap")
    pytest.importorskip(request.param, reason=f"{request.param} is an optional peer")
    return {"diffct": DiffctConeProjector, "leapctype": LeapConeProjector}[request.param]


def blob(grid: VolumeGrid) -> torch.Tensor:
    """exp(−r²/2σ²) around a point off every symmetry of the axes."""
    (dz, dy, dx), (z, y, x) = grid.spacing_cm, grid.center_cm
    steps = [torch.arange(n) - (n - 1) / 2 for n in grid.shape]
    distances = (z + dz * steps[0] + 0.5, y - dy * steps[1] + 0.9, x + dx * steps[2] - 0.7)
    z, y, x = (torch.exp(-((d / 0.8) ** 2) / 2) for d in distances)
    return z[:, None, None] * y[:, None] * x


def centroids(sinogram: torch.Tensor) -> torch.Tensor:
    """Centroid (row, column) of every view, in pixels."""
    sums = sinogram.double().sum(2), sinogram.double().sum(1)
    return torch.stack([w @ torch.arange(w.shape[1]).double() / w.sum(1) for w in sums], -1)


@pytest.mark.parametrize(
    "change", [{}, {"arc_rad": 4.0}, {"view_angles_rad": (5.0, 3.1, 1.2, 0.4)}]
)
def test_agrees_with_cone_projector(peer, change):
    beam = replace(BEAM, **change)
    x = blob(VOLUME).float()
    y, expected = peer(beam, VOLUME) @ x, ConeProjector(beam, VOLUME) @ x
    assert y.dtype == torch.float32
    assert y.is_contiguous()
    # diffct does not interpolate: rows about as far apart as slices alias with them
    error, pixels = (0.05, 0.1) if peer is DiffctConeProjector else (0.02, 0.01)
    assert (y - expected).norm() <= error * expected.norm()
    torch.testing.assert_close(centroids(y), centroids(expected), rtol=0, atol=pixels)


def test_adjoint(peer):
    A = peer(BEAM, VOLUME)
    check_adjoint(A, torch.float32)
    check_adjoint(A.T, torch.float32)


def test_images_of_any_strides_one_by_one(peer):
    A = peer(BEAM, VOLUME)
    for operator in (A, A.T):
        x = torch.randn(*reversed(operator.in_shape), 3, 2).float().permute(4, 3, 2, 1, 0)
        before, y = x.clone(), operator @ x
        assert torch.equal(x, before)
        assert y.shape == (2, 3, *operator.out_shape)
        torch.testing.assert_close(y[1, 2], operator @ x[1, 2].contiguous())
        assert (operator @ x[:0]).shape == (0, 3, *operator.out_shape)


def test_copies_compute_the_same_projection(peer):
    A, x = peer(BEAM, VOLUME), blob(VOLUME).float()
    expected = A @ x
    for twin in (copy.deepcopy(A), pickle.loads(pickle.dumps(A))):
        assert torch.equal(twin @ x, expected)


@pytest.mark.parametrize(
    ("adapter", "module", "remedy"),
    [
        (DiffctConeProjector, "diffct", "pip install diffct"),
        (LeapConeProjector, "leapctype", "pip install .*github.com/LLNL/LEAP"),
    ],
)
def test_a_missing_library_is_named_with_the_command_to_install_it(
    monkeypatch, adapter, module, remedy
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=remedy):
        adapter(BEAM, VOLUME)


@pytest.mark.parametrize(("beam", "grid"), SMALL_CONES.values(), ids=SMALL_CONES)
def test_diffct_measures_a_box_exactly(beam, grid):
    """A ray lies in the box between the last plane of entry and the first plane of exit."""
    pytest.importorskip("diffct")
    A = DiffctConeProjector(beam, grid)
    x, (n_z, n_y, _) = torch.zeros(A.in_shape), A.in_shape
    top = n_z // 2 + 1  # no ray runs along this plane
    x[:top, :2, 1:3] = 1
    step = np.array(grid.spacing_cm[::-1])
    edge = np.array(grid.center_cm[::-1]) - step * A.in_shape[::-1] / 2
    corners = edge + step * (1, n_y - 2, 0), edge + step * (3, n_y, top)
    sources, directions = beam.rays()
    with np.errstate(divide="ignore"):
        planes = [(corner - sources) / directions for corner in corners]
    enters, leaves = np.minimum(*planes).max(-1), np.maximum(*planes).min(-1)
    expected = torch.from_numpy(np.maximum(leaves - enters, 0))
    assert expected.any()
    torch.testing.assert_close(A @ x, expected, rtol=0, atol=1e-9)
    check_adjoint(A)
    check_adjoint(A.T)


def test_diffct_has_gradients():
    pytest.importorskip("diffct")
    check_gradient(DiffctConeProjector(*SMALL_CONES["flat"]))


def test_leap_gets_the_positions_of_source_panel_and_volume(leap):
    """Its source R θ − τ θ⊥ is ours, −axis_offset · along − R · toward: θ⊥ is along, θ −toward."""
    model = leap(BEAM, VOLUME).model
    sources, directions = model.rays()
    panels = sources + model.sdd * directions
    for found_mm, expected_cm in (
        (sources[:, 0, 0], BEAM.sources_cm()),
        (panels, BEAM.pixels_cm()),
    ):
        torch.testing.assert_close(found_mm / 10, torch.from_numpy(expected_cm), rtol=0, atol=1e-5)
    low, high = model.middle - model.half, model.middle + model.half
    torch.testing.assert_close(low, 10 * torch.tensor([-3.1, -2.6, -2.575]))
    torch.testing.assert_close(high, 10 * torch.tensor([2.7, 2.8, 3.175]))
    assert model.diameter >= 1e5


@pytest.mark.parametrize(
    ("change", "voxel_cm", "message"),
    [
        ({}, (0.25, 0.2, 0.21), r"square .* 0\.21 ×"),
        ({}, (0.1, 0.2, 0.2), r"0.1\d+ to 0.4\d+ cm.* got 0.1 cm"),
        ({"pixel_cm": (0.45, 0.15)}, None, r"got 0\.2 cm"),
        ({"view_angles_rad": (0.0, 1.0, 3.0, 2.0)}, None, "view_angles_rad"),
        ({"source_to_detector_cm": 30.0, "pixel_cm": 0.25}, None, "set_conebeam"),
    ],
)
def test_scans_that_leap_cannot_represent_raise_an_error(leap, change, voxel_cm, message):
    with pytest.raises(ValueError, match=message):
        leap(replace(BEAM, **change), replace(VOLUME, voxel_cm=voxel_cm or VOLUME.voxel_cm))


def test_leap_rejects_double_precision(leap):
    with pytest.raises(TypeError, match=r"torch\.float64.*\.float\(\)"):
        leap(BEAM, VOLUME) @ torch.ones(VOLUME.shape)


def test_a_result_that_leap_does_not_write_raises_an_error(leap, monkeypatch):
    monkeypatch.setattr(StandIn, "project", lambda self, g, f: g)
    with pytest.raises(RuntimeError, match="LeapConeProjector"):
        leap(BEAM, VOLUME) @ torch.ones(VOLUME.shape).float()


def test_a_ray_that_misses_the_volume_has_the_value_zero(leap):
    y = torch.zeros(BEAM.shape).float()
    y[:, 0, 0] = 1
    assert not (leap(BEAM, VOLUME).T @ y).any()


def test_leap_without_libleap_raises_an_error(leap, monkeypatch):
    monkeypatch.setattr(StandIn, "libprojectors", None)
    with pytest.raises(ImportError, match="libleap"):
        leap(BEAM, VOLUME)
