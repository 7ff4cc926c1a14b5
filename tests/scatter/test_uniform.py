"""Uniform scatter is the mean scatter of the scans of its fit."""

import pytest
import torch
from support.kernels import model_with, panel

from pcctlearn.scan import Scan
from pcctlearn.scatter.uniform import UniformFraction, UniformScatter


def fitted(air, counts, scatter):
    correction = UniformScatter(panel(), model_with(air))
    pairs = zip(counts.split(1), (scatter / counts).split(1), strict=True)
    correction.fit([Scan(counts=n, scatter_fraction=f) for n, f in pairs], dict)
    return correction


def test_uniform_scatter_is_recovered():
    air, scatter = torch.tensor([1000.0, 500.0]), torch.tensor([20.0, 5.0])[:, None, None, None]
    counts = scatter + 900 * torch.rand(3, 2, 4, 5, 6) + 100
    found = fitted(air, counts, scatter.expand_as(counts))
    torch.testing.assert_close(found(counts) * counts, scatter.expand_as(counts))


def test_the_fit_is_the_least_squares_constant():
    air = torch.tensor([1000.0])
    counts, scatter = 1e4 + torch.rand(2, 2, 1, 3, 4, 5)
    s = 1000 * fitted(air, counts, scatter).scatter_over_air
    misfit = [((scatter - x) ** 2).sum() for x in (s, s * 1.01, s * 0.99)]
    assert misfit[0] < min(misfit[1:])


def test_the_fraction_lies_between_zero_and_one():
    fraction = UniformScatter(panel(), model_with(torch.tensor([1e3])))
    fraction.scatter_over_air.fill_(0.1)
    counts = torch.logspace(-9, 6, 60).reshape(1, 1, 3, 4, 5)
    assert ((fraction(counts) > 0) & (fraction(counts) <= 1)).all()
    assert fraction(torch.zeros(1, 1, 1, 1, 1)).isfinite().all()


def test_a_constant_fraction_is_recovered_from_rays_behind_the_object():
    air, true = torch.tensor([1000.0, 500.0]), torch.tensor([0.05, 0.2])[:, None, None, None]
    counts = air[:, None, None, None] * (0.1 + 0.3 * torch.rand(1, 2, 4, 5, 6))
    counts[..., 0] = air[:, None, None]  # beside the object, without scatter
    fraction = true.expand_as(counts).clone()
    fraction[..., 0] = 0.0
    correction = UniformFraction(panel(), model_with(air))
    correction.fit([Scan(counts=counts, scatter_fraction=fraction)], dict)
    found = correction(counts)
    assert found.shape == counts.shape
    torch.testing.assert_close(found[..., 1:], fraction[..., 1:])


def test_noise_of_the_reference_does_not_lower_a_constant_fraction():
    air = torch.tensor([1000.0])
    y, r = (torch.poisson(torch.full((1, 1, 20, 100, 100), n)) for n in (10.0, 9.0))
    correction = UniformFraction(panel(), model_with(air))
    fraction = torch.where(y > 0, 1 - r / y, 0.0)
    correction.fit([Scan(counts=y, scatter_fraction=fraction)], dict)
    assert float(correction.fraction) == pytest.approx(0.1, abs=0.005)


def test_a_constant_fraction_without_an_object_is_zero():
    air = torch.tensor([1000.0])
    counts = torch.full((1, 1, 2, 3, 4), 1000.0)
    correction = UniformFraction(panel(), model_with(air))
    correction.fit([Scan(counts=counts, scatter_fraction=0.1 * torch.ones_like(counts))], dict)
    assert not correction(counts).any()
