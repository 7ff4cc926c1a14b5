"""The sum of misfit and deviance is the likelihood of counts behind known materials."""

import torch
from support.studies import slab_problem

from pcctlearn.losses.likelihood import DevianceLoss, MisfitLoss
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.scan import Scan


def split_and_exact(bias_keV):
    """The two losses and L(A_true), for a detector with a threshold bias."""
    chain, target, _ = slab_problem(bias_keV=bias_keV)
    predicted = chain(target.counts, until="expected_counts")
    split = MisfitLoss()(predicted, target) + DevianceLoss()(predicted, target)
    model = chain.decompose.model
    A, n = (rays[0, :, :, 0].movedim(0, -1) for rays in (target.line_integrals, target.counts))
    exact = poisson_likelihood(A, n, model.spectra()[0], model.attenuation).value.sum()
    return split.detach(), exact.detach()


def test_misfit_plus_deviance_is_the_deviance_at_the_truth_to_second_order():
    """L is proportional to the square of the bias, and the difference to its cube."""
    biases = [0.04, 0.02, 0.01]
    split, exact = torch.tensor([split_and_exact(bias) for bias in biases]).T
    torch.testing.assert_close(
        torch.log2(exact[:-1] / exact[1:]), torch.full((2,), 2.0), rtol=0.02, atol=0
    )
    gap = (split - exact).abs()
    assert (torch.log2(gap[:-1] / gap[1:]) > 2.8).all()
    assert gap[-1] < 0.02 * exact[-1]


def test_both_are_zero_without_a_bias():
    chain, target, _ = slab_problem(bias_keV=0.0)
    predicted = chain(target.counts, until="expected_counts")
    assert MisfitLoss()(predicted, target).abs() < 1e-6
    assert DevianceLoss()(predicted, target).abs() < 1e-6


def test_the_gradient_at_zero_counts_is_one():
    """∂/∂ȳ (ȳ − n + n log n/ȳ) = 1 − n/ȳ, also where n = 0."""
    mean = torch.tensor([0.5, 2.0, 4.0], requires_grad=True)
    counts = torch.tensor([0.0, 2.0, 1.0])
    DevianceLoss()(Scan(expected_counts=mean), Scan(counts=counts)).backward()
    torch.testing.assert_close(mean.grad, torch.tensor([1.0, 0.0, 0.75]))
