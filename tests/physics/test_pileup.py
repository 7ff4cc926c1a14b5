"""Dead times: the curve, its inverse, and gradients through it."""

import pytest
import torch

from pcctlearn.physics.pileup import (
    PileUp,
    greatest_rate,
    log_slopes,
    registered_rate,
    true_rate,
)

DEAD_TIMES = [(4e-7, 0.0), (0.0, 3e-7), (2e-7, 3e-7), (0.0, 0.0), (1e-9, 5e-7)]


def dead_times(pair):
    return [torch.tensor(value, dtype=torch.float64) for value in pair]


@pytest.mark.parametrize("pair", DEAD_TIMES)
def test_the_inverse_undoes_the_curve_up_to_its_maximum(pair):
    tp, tn = dead_times(pair)
    most = min(float(greatest_rate(tp, tn)), 3e7)
    n = torch.cat([torch.zeros(1), torch.logspace(-3, 0, 200) * 0.999 * most]).double()
    rate, resolved = true_rate(registered_rate(n, tp, tn), tp, tn)
    assert resolved.all()
    near_the_top = (n / most > 0.99).double()  # where the curve is flat, rounding grows
    assert ((rate - n).abs() <= (1e-14 + 1e-12 * near_the_top) * 100 * n).all()


def test_the_maximum_is_that_of_the_curve():
    tp, tn = dead_times((2e-7, 3e-7))
    n = torch.linspace(0.2, 5, 100_001, dtype=torch.float64) / 2e-7
    assert float(n[registered_rate(n, tp, tn).argmax()]) == pytest.approx(
        float(greatest_rate(tp, tn)), rel=1e-4
    )
    assert float(greatest_rate(*dead_times((4e-7, 0.0)))) == pytest.approx(2.5e6)
    assert greatest_rate(*dead_times((0.0, 3e-7))).isinf()


def test_rates_beyond_the_maximum_are_not_resolved():
    tp, tn = dead_times((4e-7, 0.0))
    top = registered_rate(greatest_rate(tp, tn), tp, tn)
    m = torch.stack([0.5 * top, 0.99999999999999 * top, 1.01 * top, torch.tensor(torch.nan)])
    rate, resolved = true_rate(m.requires_grad_(), tp, tn)
    assert resolved.tolist() == [True, False, False, False]
    assert rate[2].item() == pytest.approx(2.5e6)
    assert rate[3].isnan()
    rate[:3].sum().backward()
    assert m.grad[0] > 1
    assert (m.grad[1:] == 0).all()
    with_tn = true_rate(torch.tensor([4e6]).double(), *dead_times((0.0, 3e-7)))
    assert not with_tn.resolved.any()


@pytest.mark.parametrize("pair", [(2e-7, 3e-7), (4e-7, 1e-8), (1e-8, 3e-7)])
def test_gradients_of_the_inverse(pair):
    tp, tn = (value.requires_grad_() for value in dead_times(pair))
    m = torch.tensor([1e3, 2e5, 8e5], dtype=torch.float64, requires_grad=True)

    scales = 1e5, 1e-7, 1e-7  # of the order of one

    def scaled(*values):
        inputs = (value * scale for value, scale in zip(values, scales, strict=True))
        return true_rate(*inputs).rate / 1e5

    inputs = [
        (value.detach() / scale).requires_grad_()
        for value, scale in zip((m, tp, tn), scales, strict=True)
    ]
    assert torch.autograd.gradcheck(scaled, inputs, eps=1e-5)


def test_counts_in_bins_are_registered_above_thresholds_and_corrected():
    pileup = PileUp([3e-7, 2e-7], [1e-7, 0.0], time_s=0.05)
    counts = torch.tensor([[[3e4, 2e4], [100.0, 0.0]]])
    registered = pileup(counts)
    above = torch.tensor([5e4, 2e4]).double() / 0.05
    expected = registered_rate(above, pileup.paralysable_s, pileup.nonparalysable_s) * 0.05
    assert registered[0, 0].sum().item() == pytest.approx(expected[0].item(), rel=1e-6)
    assert registered[0, 0, 1].item() == pytest.approx(expected[1].item(), rel=1e-6)
    corrected, resolved = pileup.corrected(registered)
    torch.testing.assert_close(corrected, counts, rtol=1e-6, atol=1e-3)
    assert resolved.all()


def test_dead_times_are_learned_through_the_correction():
    true = PileUp([3e-7, 2e-7], [0.0, 0.0], time_s=0.05)
    counts = torch.rand(64, 2, generator=torch.Generator().manual_seed(0)).double() * 3e4 + 1e3
    measured = true(counts).detach()
    learned = PileUp([1e-7, 1e-7], [0.0, 0.0], time_s=0.05)
    for _ in range(8):  # Newton's method on the relative error of the counts, which is smooth in τ
        corrected, resolved = learned.corrected(measured)
        assert resolved.all()
        error = ((corrected / counts) - 1).sum(0)
        slopes = [
            torch.autograd.grad(e, learned.paralysable_s, retain_graph=True)[0] for e in error
        ]
        with torch.no_grad():
            learned.paralysable_s -= torch.linalg.solve(torch.stack(slopes), error.detach())
    torch.testing.assert_close(learned.paralysable_s, true.paralysable_s, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([-1e-7], [0.0], 0.05), "paralysable_s must lie from 0"),
        (([4e-7], [400.0], 0.05), "nonparalysable_s must lie from 0"),
        (([4e-7], [0.0], 0.0), "time_s must be positive"),
    ],
)
def test_impossible_dead_times_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        PileUp(*arguments)


def test_log_slopes_are_the_derivatives_of_the_curve():
    n = torch.tensor([1e5, 2e6, 4e6], dtype=torch.float64, requires_grad=True)
    tau = torch.full_like(n, 2e-8).requires_grad_()
    q = torch.full_like(n, (8e-9) ** 2).requires_grad_()
    m = registered_rate(n, tau - q.sqrt(), q.sqrt())
    wanted = torch.autograd.grad(m.log().sum(), (n, tau, q))
    found = log_slopes(n.detach(), (tau - q.sqrt()).detach(), q.sqrt().detach())
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=0)
