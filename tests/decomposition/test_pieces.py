"""Splitting rays into pieces and joining them is the identity."""

import pytest
import torch

from pcctlearn.decomposition import pieces
from pcctlearn.decomposition.pieces import RayLayout, flat
from pcctlearn.solvers.quadratic import Solution


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("rays", "pixels"),
    [
        ((), ()),
        ((7,), ()),
        ((7,), (7,)),
        ((3, 5), (5,)),
        ((3, 5), (3, 1)),
        ((2, 3, 5), (3, 5)),
        ((2, 3, 5), (3, 1)),
        ((2, 3, 5), (1, 1)),
    ],
)
def test_split_and_join(rays, pixels, size, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", size)
    counts = torch.rand(*rays, 4)
    spectra = torch.rand(*pixels, 4, 6)
    start = torch.rand(*rays, 2)
    layout = RayLayout(torch.Size(rays), torch.Size(pixels))
    parts = layout.ordered(counts, spectra, start).pieces()
    assert all(part.counts[..., 0].numel() <= size for part in parts)
    # Σ_E S_b(E) · n_b of each ray, computed in pieces and at once
    solutions = []
    for part in parts:
        own = part.spectra if part.spectra.ndim == 2 else part.spectra[:, None]
        solutions.append(
            Solution(
                torch.cat([part.start, part.counts * own.sum(-1)], -1), part.counts[..., 0] > 0.5
            )
        )
    x, mask = layout.restored(flat(solutions))
    padded = spectra.sum(-1).expand(*rays, 4)
    assert torch.equal(x, torch.cat([start, counts * padded], -1))
    assert torch.equal(mask, counts[..., 0] > 0.5)


@pytest.mark.parametrize(
    ("rays", "pixels"), [((5,), (4,)), ((5, 3), (5,)), ((5,), (5, 1)), ((), (2,))]
)
def test_pixel_axes_must_be_the_last_axes_of_the_rays(rays, pixels):
    with pytest.raises(ValueError, match="last axes"):
        RayLayout(torch.Size(rays), torch.Size(pixels))
