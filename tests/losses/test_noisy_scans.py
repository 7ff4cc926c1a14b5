"""Losses for noisy scans are lowest at the true scatter, however noisy the counts."""

import numpy as np
import pytest
import torch
from support.scanners import SIX_BINS, scanner

from pcctlearn.chain import Chain
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.losses.counts import NoisyCountsLoss
from pcctlearn.losses.likelihood import ScanDevianceLoss
from pcctlearn.losses.stage import TotalLoss
from pcctlearn.scan import Scan
from pcctlearn.shapes import channels_first

SCALES = (0.8, 0.9, 1.0, 1.1, 1.2)


def lowest(values):
    """Scale of the minimum of a parabola through the values at SCALES."""
    a, b, _ = np.polyfit(SCALES, [float(value) for value in values], 2)
    return -b / (2 * a)


@pytest.mark.parametrize(("primary", "scatter"), [(20.0, 10.0), (200.0, 40.0)])
def test_noise_hardly_moves_the_minimum_of_counts_in_units_of_their_noise(primary, scatter):
    """The weights depend on the counts themselves, which shifts it by 1/(y + r)."""
    y, r = (
        torch.poisson(torch.full((1, 4, 1, 200, 1000), n)) for n in (primary + scatter, primary)
    )
    loss, target = NoisyCountsLoss(), Scan(corrected_counts=r)
    found = [loss(Scan(counts=y, corrected_counts=y - a * scatter), target) for a in SCALES]
    assert lowest(found) == pytest.approx(1 - 1 / (2 * primary + scatter), abs=2e-3)


def deviances(edges_keV, scales, photons=1e5, bias_keV=0.0):
    """Mean half deviance of noisy counts behind water and calcium, for scaled scatter."""
    torch.manual_seed(0)
    model = scanner(edges_keV=edges_keV, photons=photons)
    n_bins = len(edges_keV) - 1
    lines = torch.tensor([8.0, 0.3]) * torch.rand(1, 1, 10_000, 2)
    primary = channels_first(model(lines).detach())
    scatter = 0.003 * model.air().detach()[:, None, None].expand(n_bins, 1, 10_000)[None]
    y = torch.poisson(primary + scatter)
    wrong = model.thresholds.edges_keV.detach() + bias_keV
    chain = Chain(MaximumLikelihood(model.with_edges(wrong) if bias_keV else model))
    loss, found = ScanDevianceLoss(), []
    for a in scales:
        corrected = (y - a * scatter).clamp(min=1.0)
        with torch.no_grad():
            lines, _ = chain.decompose(corrected)
            known = Scan(counts=y, scatter_fraction=1 - corrected / y, line_integrals=lines)
            found.append(loss(chain.resume(known, "expected_counts"), Scan()))
    return found


@pytest.mark.parametrize("edges_keV", [[15.0, 33.0, 45.0, 59.0, 120.0], SIX_BINS])
def test_the_deviance_of_a_scan_tells_its_scatter(edges_keV):
    values = deviances(edges_keV, SCALES)
    n_left = len(edges_keV) - 1 - 2
    assert float(values[2]) == pytest.approx(n_left / 2, rel=0.03)
    assert lowest(values) == pytest.approx(1, abs=0.15)


def test_two_bins_tell_nothing_of_scatter():
    """Two materials explain any two counts: the deviance is zero for every scatter."""
    values = deviances([15.0, 50.0, 120.0], SCALES)
    assert max(map(float, values)) < 1e-6


def test_wrong_thresholds_pass_for_scatter():
    """The deviance does not tell which part of the model is wrong."""
    assert abs(lowest(deviances([15.0, 33.0, 45.0, 59.0, 120.0], SCALES, bias_keV=0.5)) - 1) > 0.15


def test_a_loss_on_the_scan_alone_compares_with_nothing():
    loss = TotalLoss({"deviance": ScanDevianceLoss()})
    assert loss.expects
    assert loss.compared == set()
    assert loss.stages == {"expected_counts"}
