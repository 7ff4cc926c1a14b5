"""HU become densities by the stated rule, and a patient lands on the grid whole and alone."""

import pytest
import torch

from pcctlearn.phantoms.ellipses import voxel_centers
from pcctlearn.phantoms.voxels import body_mask, centered_body, water_and_calcium
from pcctlearn.physics.attenuation import mass_attenuation


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
