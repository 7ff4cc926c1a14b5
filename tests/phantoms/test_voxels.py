"""HU become densities by the stated rule, and a patient lands on the grid whole and alone."""

import pytest
import torch

from pcctlearn.phantoms.ellipses import voxel_centers
from pcctlearn.phantoms.voxels import (
    body_mask,
    centered_body,
    centered_volume,
    volume_body_mask,
    water_and_calcium,
)
from pcctlearn.physics.attenuation import mass_attenuation
from pcctlearn.tomography.grids import VolumeGrid


@pytest.mark.parametrize(
    ("tissue_HU", "water", "calcium"),
    [
        (50, 1.050, 0.0),
        (350, 1.090, 0.106),
        (1550, 1.333, 0.498),
        (-101, 0.899, 0.0),
        (-1024, 0.0, 0.0),
    ],
)
def test_known_tissues(tissue_HU, water, calcium):
    found = water_and_calcium(torch.tensor([float(tissue_HU)]))[:, 0]
    torch.testing.assert_close(found, torch.tensor([water, calcium]), rtol=0, atol=6e-4)


@pytest.mark.parametrize("effective_keV", [60.0, 70.0])
def test_monoenergetic_image_at_the_anchor_returns_the_hounsfield_units(effective_keV):
    hounsfield = torch.linspace(-1000, 2000, 301)
    maps = water_and_calcium(hounsfield, threshold_HU=24.0, effective_keV=effective_keV)
    water, calcium = (mass_attenuation(m, [effective_keV]) for m in ("water", "calcium"))
    vmi = maps[0] + maps[1] * calcium / water
    torch.testing.assert_close(1000 * (vmi - 1), hounsfield)


def test_negative_calcium_is_refused():
    with pytest.raises(ValueError, match="24 or more, got 0"):
        water_and_calcium(torch.zeros(1), threshold_HU=0.0)


def patient_on_a_table(spacing_cm=(0.08, 0.1), semi_axes_cm=(10.0, 7.0)):
    """An ellipse of soft tissue with a lung in it, off centre, above a thin table."""
    x, y = voxel_centers(400, 400, 1.0).unbind(-1)
    x, y = x * spacing_cm[1] - 3, y * spacing_cm[0] - 2
    a, b = semi_axes_cm
    hounsfield = torch.full((400, 400), -1000.0)
    hounsfield[(x / a) ** 2 + (y / b) ** 2 <= 1] = 40
    hounsfield[x**2 + y**2 <= 4] = -800
    hounsfield[(y + b + 1).abs() < 0.2] = 300
    return hounsfield


def test_body_is_centred_upright_and_of_its_own_area():
    placed, scale = centered_body(patient_on_a_table(), (0.08, 0.1), 128, 160, 0.2)
    y, x = (placed > -500).nonzero().double().mean(0)
    assert scale == 1
    assert abs(y - 63.5) < 0.1
    assert abs(x - 79.5) < 0.1
    mass = (1 + placed / 1000).sum() * 0.2**2
    expected = torch.pi * (10.0 * 7.0 * 1.04 - 2**2 * 0.84)
    assert abs(mass / expected - 1) < 0.01


def test_mask_keeps_the_lung_and_drops_the_table():
    hounsfield = patient_on_a_table()
    mask = body_mask(hounsfield, (0.08, 0.1))
    assert not mask[hounsfield == 300].any()
    assert mask[hounsfield == -800].all()
    with pytest.raises(ValueError, match="no body in this slice"):
        body_mask(torch.full((40, 40), -1000.0), (0.1, 0.1))


def test_a_body_wider_than_the_field_is_refused_or_shrunk():
    hounsfield = patient_on_a_table()
    with pytest.raises(
        ValueError, match=r"19\.\d cm wide.*16\.0 cm: take 10\d voxels.*datasets.fit=true"
    ):
        centered_body(hounsfield, (0.08, 0.1), 80, 80, 0.2)
    placed, scale = centered_body(hounsfield, (0.08, 0.1), 80, 80, 0.2, fit=True)
    inside = voxel_centers(80, 80, 0.2).norm(dim=-1) < 8.0
    assert 0.75 < scale < 0.82
    assert (placed[~inside] < -990).all()
    assert (placed[40] > -900).sum() * 0.2 == pytest.approx(20 * scale, abs=0.4)


def test_a_volume_of_equal_slices_is_placed_as_each_of_them():
    hounsfield, voxel_cm = patient_on_a_table(), (0.3, 0.08, 0.1)
    volume = hounsfield.expand(7, -1, -1)
    mask = volume_body_mask(volume, voxel_cm)
    assert (mask == body_mask(hounsfield, voxel_cm[1:])).all()
    slice_, _ = centered_body(hounsfield, voxel_cm[1:], 128, 160, 0.2)
    placed, scale = centered_volume(volume, voxel_cm, VolumeGrid(5, 128, 160, (0.3, 0.2, 0.2)))
    assert scale == 1
    torch.testing.assert_close(placed, slice_.expand(5, -1, -1))


def test_the_body_is_one_piece_in_three_dimensions():
    """A bottle larger than the neck, in the slices of the neck only, is not the patient."""
    y, x = torch.meshgrid(torch.arange(80) - 40.0, torch.arange(80) - 40.0, indexing="ij")
    volume = torch.full((6, 80, 80), -1000.0)
    volume[:4, y**2 + x**2 < 20**2] = 40
    volume[4:, y**2 + x**2 < 6**2] = 40
    volume[4:, y**2 + (x - 30) ** 2 < 8**2] = 0
    mask = volume_body_mask(volume, (0.5, 0.5, 0.5))
    assert mask[5, 40, 40]
    assert not mask[volume == 0].any()
    with pytest.raises(ValueError, match="no body in this volume"):
        volume_body_mask(torch.full((3, 40, 40), -1000.0), (0.1, 0.1, 0.1))


def test_only_the_part_on_the_grid_must_fit():
    """Shoulders above the field neither refuse the patient nor move it."""
    y, x = torch.meshgrid(torch.arange(80) - 40.0, torch.arange(80) - 40.0, indexing="ij")
    volume = torch.full((9, 80, 80), -1000.0)
    volume[:, y**2 + x**2 < 12**2] = 40
    volume[[0, 8], 20:60, 28:78] = 40
    placed, scale = centered_volume(volume, (1.0, 0.5, 0.5), VolumeGrid(5, 30, 30, (1.0, 0.5, 0.5)))
    assert scale == 1
    torch.testing.assert_close(placed, placed.flip(2))
