"""Scatter of a known shape and an amplitude that can be learned."""

import torch

from pcctlearn.scatter.over_air import ScatterOverAir


def example():
    counts = 1e4 * (1 + torch.rand(1, 4, 6, 3)).double()  # the first view is air
    ratio = torch.full_like(counts, 0.05)
    ratio[:, :, 0] = 0
    return counts, ratio


def test_it_subtracts_the_amplitude_times_the_ratio_times_air():
    counts, ratio = example()
    left = counts * (1 - ScatterOverAir(ratio, 0.4)(counts))
    torch.testing.assert_close(left, counts - 0.4 * ratio * counts[:, :, :1])
    assert torch.equal(left[:, :, 0], counts[:, :, 0])


def test_its_gradient_reaches_amplitude_and_counts():
    counts, ratio = example()
    correct = ScatterOverAir(ratio, 0.4)
    counts.requires_grad_()
    (counts * correct(counts)).sum().backward()
    wanted = (ratio * counts[:, :, :1]).sum().detach()
    torch.testing.assert_close(correct.amplitude.grad, wanted)
    torch.testing.assert_close(counts.grad[:, :, 0], 0.4 * ratio.sum(2))


def test_no_ray_is_all_scatter():
    counts, ratio = example()
    assert ScatterOverAir(1e3 * ratio)(counts).max() < 1
