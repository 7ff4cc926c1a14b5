"""Dead times from a series of tube currents."""

from dataclasses import replace

import pytest
import torch

from pcctlearn.calibration.dead_times import CurrentSeries, fit_dead_times
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.pileup import registered_rate

CURRENTS = torch.tensor([0.7, 1.4, 2.8, 4.0, 5.6, 8.0], dtype=torch.float64)


def series(paralysable_s, nonparalysable_s, n_pixels=40, seed=None, time_s=0.05, rate=3e5):
    """Counts of pixels whose true rates differ by 1 %, above two thresholds."""
    tp, tn = (torch.tensor(t, dtype=torch.float64) for t in (paralysable_s, nonparalysable_s))
    generator = torch.Generator().manual_seed(7)
    gain = 1 + 0.01 * torch.randn(n_pixels, 1, generator=generator, dtype=torch.float64)
    true = rate * CURRENTS[:, None, None] / 5.6 * gain * torch.tensor([1.0, 0.4])
    counts = registered_rate(true, tp, tn) * time_s
    if seed is not None:
        counts = draw_counts(counts, torch.Generator().manual_seed(seed))
    time = torch.full_like(CURRENTS, time_s)
    return CurrentSeries(CURRENTS, counts, time, torch.tensor([25.0, 45.0]))


@pytest.mark.parametrize("each_pixel", [False, True])
def test_expected_counts_give_the_dead_times(each_pixel):
    found = fit_dead_times(series([4e-7, 2e-7], [1e-7, 3e-7]), each_pixel)
    assert found.converged.all()
    # the mean over pixels that differ is not exactly that of one pixel
    rtol = 1e-6 if each_pixel else 1e-2
    expected = torch.tensor([4e-7, 2e-7]).double().expand_as(found.paralysable_s)
    torch.testing.assert_close(found.paralysable_s, expected, rtol=rtol, atol=0)
    expected = torch.tensor([1e-7, 3e-7]).double().expand_as(found.paralysable_s)
    torch.testing.assert_close(found.nonparalysable_s, expected, rtol=4 * rtol, atol=0)


@pytest.mark.parametrize("times", [(4e-7, 0.0), (0.0, 4e-7), (0.0, 0.0)])
def test_dead_times_are_not_negative(times):
    tp, tn = times
    for seed in range(4):
        found = fit_dead_times(series([tp, tp], [tn, tn], seed=seed))
        both = found.paralysable_s + found.nonparalysable_s
        assert found.converged.all()
        assert (found.paralysable_s >= 0).all()
        assert (found.nonparalysable_s >= 0).all()
        assert ((both - tp - tn).abs() <= 4 * found.covariance_s2.sum((-2, -1)).sqrt()).all()


def test_error_bars_cover_the_truth():
    deviations = []
    for seed in range(60):
        measured = series([4e-7] * 2, [3e-7] * 2, n_pixels=1, seed=seed, rate=1e6, time_s=1.0)
        found = fit_dead_times(measured)
        error = found.paralysable_s - 4e-7
        deviations.append(error[0] / found.covariance_s2[0, 0, 0].sqrt())
        assert (found.misfit < 6).all()
    deviations = torch.stack(deviations)  # of the threshold with the higher rate
    assert 0.85 < deviations.std() < 1.15
    assert deviations.mean().abs() < 0.3


def test_the_correction_of_the_series_is_linear_in_the_current():
    measured = series([4e-7, 2e-7], [1e-7, 3e-7])
    stage = fit_dead_times(measured).pile_up(0.05)
    bins = measured.counts.clone()
    bins[..., 0] -= bins[..., 1]
    corrected, resolved = stage.corrected(bins)
    per_mA = corrected / CURRENTS[:, None, None]
    assert resolved.all()
    assert ((per_mA / per_mA[0] - 1).abs() < 2e-4).all()


def test_dead_pixels_do_not_spoil_the_others():
    measured = series([4e-7, 2e-7], [1e-7, 3e-7], seed=0)
    spoilt = measured.counts.clone()
    spoilt[:, 3] = torch.nan
    spoilt[2, 5] = 0
    others = torch.ones(40, dtype=torch.bool)
    others[[3, 5]] = False
    alone = fit_dead_times(replace(measured, counts=measured.counts[:, others]))
    found = fit_dead_times(replace(measured, counts=spoilt))
    torch.testing.assert_close(found.paralysable_s, alone.paralysable_s)
    each = fit_dead_times(replace(measured, counts=spoilt), each_pixel=True)
    assert not each.converged[[3, 5]].any()
    assert each.converged[others].all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"current_mA": CURRENTS.flip(0)}, "current_mA must increase, but 5.6 mA follows 8 mA"),
        ({"current_mA": -CURRENTS}, "current_mA must be positive"),
        ({"counts": series([4e-7] * 2, [0.0] * 2).counts.flip(0)}, "the rate above 25 keV falls"),
        ({"counts": torch.zeros(6, 3, 2)}, "no pixel counts above every threshold"),
    ],
)
def test_impossible_series_are_refused(change, message):
    measured = series([4e-7] * 2, [0.0] * 2)
    with pytest.raises(ValueError, match=message):
        CurrentSeries(**(vars(measured) | change))


def test_a_rate_beyond_the_maximum_is_named():
    with pytest.raises(ValueError, match="leave out currents above 4 mA"):
        series([4e-7] * 2, [0.0] * 2, rate=3e6)


def test_few_currents_are_refused():
    measured = series([4e-7] * 2, [0.0] * 2)
    with pytest.raises(ValueError, match="3 currents do not determine two dead times"):
        CurrentSeries(
            CURRENTS[:3], measured.counts[:3], measured.time_s[:3], measured.thresholds_keV
        )


def broken(seed=0):
    """A series in which one counter drops and one is not linear in the current."""
    measured = series([4e-7] * 2, [0.0] * 2, seed=seed)
    counts = measured.counts.clone()
    counts[4:, 3] *= 0.2
    counts[:, 7] *= (1 + 0.02 * CURRENTS**2)[:, None]
    return replace(measured, counts=counts)


def test_a_pixel_that_does_not_follow_its_curve_is_not_fitted():
    found = fit_dead_times(broken(), each_pixel=True)
    bad = (~found.converged).all(-1).nonzero().flatten().tolist()
    assert bad == [3, 7]


def test_a_counter_whose_rate_falls_does_not_spoil_the_others():
    alone = broken()
    kept = torch.ones(40, dtype=torch.bool)
    kept[3] = False
    assert alone.usable.tolist() == kept.tolist()
