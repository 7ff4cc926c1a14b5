"""Ordered subsets of a scan are scans, and their back-projections sum to that of the scan."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.cones import SMALL_CONE, SMALL_SHORT_CONE, SMALL_VOLUME

from pcctlearn.tomography.cone_projector import ConeProjector
from pcctlearn.tomography.iterative.subsets import of_views, ordered_subsets

FULL = replace(SMALL_CONE, n_views=12)
SHORT = replace(SMALL_SHORT_CONE, n_views=12)
MEASURED = replace(FULL, view_angles_rad=tuple(np.random.default_rng(0).permutation(12) * 0.5))
BEAMS = pytest.mark.parametrize("beam", [FULL, SHORT, MEASURED], ids=["full", "short", "measured"])


@BEAMS
@pytest.mark.parametrize("n", [1, 3, 5, 6])
def test_subset_projections_are_views_of_the_whole_projection(beam, n):
    volume = torch.randn(SMALL_VOLUME.shape)
    y = ConeProjector(beam, SMALL_VOLUME) @ volume
    subsets = ordered_subsets(beam, n)
    assert len(subsets) == n
    assert sum(subset.n_views for subset in subsets) == beam.n_views
    for i, subset in enumerate(subsets):
        torch.testing.assert_close(ConeProjector(subset, SMALL_VOLUME) @ volume, y[i::n])


@BEAMS
def test_subset_back_projections_sum_to_the_whole(beam):
    y = torch.randn(beam.shape)
    parts = [
        ConeProjector(s, SMALL_VOLUME).T @ y[i::4] for i, s in enumerate(ordered_subsets(beam, 4))
    ]
    torch.testing.assert_close(torch.stack(parts).sum(0), ConeProjector(beam, SMALL_VOLUME).T @ y)


def test_views_keep_the_requested_order():
    sources = of_views(SHORT, [7, 2, 3]).sources_cm()
    np.testing.assert_allclose(sources, SHORT.sources_cm()[[7, 2, 3]])


@pytest.mark.parametrize("n", [0, 7])
def test_a_subset_of_one_view_raises_an_error(n):
    with pytest.raises(ValueError, match=rf"n_subsets .* 1 … 6, .* got {n}"):
        ordered_subsets(FULL, n)
