"""Scatter of views between the simulated ones is interpolated over the angle."""

from dataclasses import replace
from math import tau

import pytest
import torch

from pcctlearn.simulation.scatter_views import between_views, simulated_views
from pcctlearn.tomography.geometry.cone import ConeBeam

TURN = ConeBeam(72, 2, 3, 3.6, 62.5, 109.7)
SHUFFLED_rad = [7 * k % 72 * tau / 72 for k in range(72)]
ARC = replace(TURN, n_views=50, arc_rad=4.2)


@pytest.mark.parametrize("beam", [TURN, ARC, replace(TURN, start_rad=1.3)])
def test_what_varies_slowly_with_the_angle_is_recovered(beam):
    views = simulated_views(beam, 3)
    angles = torch.from_numpy(beam.angles_rad)
    scatter = 5 + torch.cos(angles) + 0.5 * torch.sin(2 * angles + 1)
    found = between_views(beam, views) @ scatter[views]
    torch.testing.assert_close(found, scatter, rtol=0, atol=2e-3)
    assert torch.equal(found[views], scatter[views])


def test_a_full_turn_has_no_seam():
    """Turning the object by one view permutes the weights."""
    views = simulated_views(TURN, 6)
    weights = between_views(TURN, views)
    torch.testing.assert_close(weights.roll((6, 1), (0, 1)), weights, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.sum(1), torch.ones(72).double())


def test_the_last_view_of_an_arc_is_simulated():
    assert simulated_views(ARC, 3)[-1] == 49
    assert simulated_views(TURN, 3)[-1] == 69


@pytest.mark.parametrize(
    ("beam", "every", "remedy"),
    [
        (TURN, 0, "scan.scatter_every=4"),
        (TURN, 12, "scan.scatter_every=9"),
        (replace(TURN, view_angles_rad=SHUFFLED_rad), 2, "scan.scatter_every=null"),
    ],
)
def test_views_that_cannot_be_interpolated_between_are_refused(beam, every, remedy):
    with pytest.raises(ValueError, match=remedy):
        simulated_views(beam, every)
    if every:
        simulated_views(beam, None)
