"""Errors from the true object: zero for the truth itself, otherwise those that were added."""

from dataclasses import replace

import pytest
import torch

from pcctlearn.evaluation.truth import errors_from_truth
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import Scan
from pcctlearn.scans.record import ScanRecord
from pcctlearn.tomography.geometry.planar import FanBeam
from pcctlearn.tomography.grids import VolumeGrid

GRID = VolumeGrid(1, 24, 20, 0.5)
BEAM = FanBeam(6, 30, 0.9, 40.0, 60.0)
BASIS = ("water", "calcium")
WATER = "projection_water_error_g_cm2"


@pytest.fixture
def truth():
    line_integrals = torch.rand(2, 6, 1, 30) * torch.tensor([20.0, 1.0])[:, None, None, None]
    line_integrals[0, ..., 8:] += 2
    line_integrals[..., :8] = 0  # air
    maps = torch.zeros(2, *GRID.shape)
    maps[:, :, 6:18, 5:15] = torch.tensor([1.0, 0.1])[:, None, None, None]
    return ScanRecord(
        "slice", BEAM, GRID, torch.tensor([20.0, 60.0, 120.0]), torch.ones(2, 1, 30),
        line_integrals=line_integrals, maps=maps, maps_grid=GRID, materials=BASIS,
    )  # fmt: skip


def outcome(truth, projection=0.0, image=0.0):
    """The truth plus these errors, as found by a chain."""
    line_integrals = (truth.line_integrals + projection)[None]
    converged = torch.ones(line_integrals[:, 0].shape, dtype=torch.bool)
    maps = (truth.maps + image)[None]
    return Scan(line_integrals=line_integrals, converged=converged, maps=maps)


def errors(found, truth, materials=BASIS):
    """{method: {metric: error}}."""
    image = MonoenergeticImages(materials, [60.0, 45.5])
    return errors_from_truth(found, truth, image, materials).by_method()


def test_the_truth_has_no_errors(truth):
    found = errors(outcome(truth), truth)
    assert found.keys() == {"mean", "rms", "pixel_bias"}
    assert len(found["rms"]) == 2 + 2 + 2
    assert all(value == 0 for errors in found.values() for value in errors.values())


def test_rays_count_that_converged_and_cross_the_object(truth):
    projection = torch.zeros(2, 6, 1, 30)
    projection[0, ..., :8] = 5.0  # in air
    projection[0, ..., 8:] = 0.1
    projection[0, 3, 0, 20] = 1e4
    found = outcome(truth, projection)
    found.converged[0, 3, 0, 20] = False
    table = errors(found, truth)
    assert table["mean"][WATER] == pytest.approx(0.1, rel=1e-4)
    assert table["rms"][WATER] == pytest.approx(0.1, rel=1e-4)
    assert table["rms"]["projection_calcium_error_g_cm2"] == 0


def test_the_pixel_bias_is_that_of_the_mean_over_the_views(truth):
    of_pixels = 0.1 * torch.tensor([1.0, -1.0]).repeat(15)
    of_views = 0.3 * torch.tensor([1.0, -1.0]).repeat(3)[:, None, None]
    table = errors(outcome(truth, of_pixels + of_views), truth)
    assert table["pixel_bias"][WATER] == pytest.approx(0.1, rel=1e-4)
    assert table["rms"][WATER] == pytest.approx(0.1**0.5, rel=1e-2)


def test_voxels_of_the_object_count_away_from_edges(truth):
    image = torch.zeros(2, *GRID.shape)
    image[0, :, :3] = 9.0  # beside the object
    image[0, :, 6:18, 5:15] = 5.0  # beside its edge
    image[0, :, 8:16, 7:13] = 0.02
    table = errors(outcome(truth, image=image), truth)
    assert table["mean"]["image_water_error_mg_mL"] == pytest.approx(20, rel=1e-4)
    assert table["rms"]["vmi45.5_error_HU"] == pytest.approx(20, rel=1e-4)


def test_another_basis_is_compared_in_HU_only(truth):
    table = errors(outcome(truth), truth, ("water", "iodine"))
    assert {key for errors in table.values() for key in errors} == {
        "vmi60_error_HU",
        "vmi45.5_error_HU",
    }
    assert table["mean"]["vmi60_error_HU"] > 100  # calcium taken for iodine


def test_true_maps_are_averaged_over_the_voxels_of_the_image(truth):
    fine = VolumeGrid(1, 96, 80, (0.5, 0.125, 0.125))  # a quarter of the voxels
    maps = truth.maps.repeat_interleave(4, 2).repeat_interleave(4, 3)
    table = errors(outcome(truth), replace(truth, maps=maps, maps_grid=fine))
    assert table["rms"]["vmi60_error_HU"] < 1e-2
    beside = replace(GRID, center_cm=(0.0, 30.0, 0.0))  # no voxel of the image has a true density
    assert "vmi60_error_HU" not in errors(outcome(truth), replace(truth, maps_grid=beside))["rms"]


def test_without_the_truth_there_are_no_errors(truth):
    bare = replace(truth, line_integrals=None, maps=None, maps_grid=None, materials=())
    assert errors(outcome(truth), bare) == {}
