"""Training of a proxy, and the rays that it is trained on."""

from functools import partial

import pytest
import torch
from support.proxies import BOX, TOLERANCE, fixed_scanner, small_proxy, small_training
from support.studies import quiet_trainer

from pcctlearn.losses.sobolev import SobolevLoss, jacobian_of, relative_errors
from pcctlearn.metrics.errors import rms
from pcctlearn.physics.noise import generator_of
from pcctlearn.training.proxy_module import fit_proxy
from pcctlearn.training.proxy_rays import ProxyRays


def rays(**options):
    return ProxyRays(fixed_scanner(), **{"range_g_cm2": BOX} | options)


def errors(network):
    """RMS errors of the materials, and median relative errors of their derivatives, new rays."""
    target = rays().draw(2000, generator_of(7, "new rays"), clean_share=1.0)
    with torch.no_grad():
        A, jacobian = jacobian_of(network, target.log_counts)
    values = [rms(column) for column in (A - target.line_integrals).unbind(-1)]
    return values, relative_errors(jacobian, target.jacobian).median(0).values


def test_a_small_proxy_learns_values_and_derivatives():
    (water, calcium), slopes = errors(small_proxy().network)
    assert water < 0.2  # g/cm², of 12; measured 0.08
    assert calcium < 0.04  # of 1; measured 0.013
    assert (slopes < 0.16).all()  # measured 0.08


def test_without_the_jacobian_in_the_loss_the_derivatives_are_wrong():
    _, slopes = errors(small_proxy().network)
    (water, _), of_values = errors(small_proxy(jacobian_tolerance=None).network)
    assert water < 0.2
    assert (of_values > 2 * slopes).all()


def test_the_same_seed_gives_the_same_network():
    fit = partial(small_training, rays(), SobolevLoss(TOLERANCE), n_rays=300, widths=[4])
    one, same, other = (fit(quiet_trainer(), seed=seed).network for seed in (1, 1, 2))
    p = torch.ones(1, 4).float()
    assert torch.equal(one(p), same(p))
    assert not torch.equal(one(p), other(p))


def test_rays_lie_in_the_box_and_a_share_is_clean():
    generator = torch.Generator().manual_seed(0)
    target = rays().draw(400, generator, clean_share=1.0)
    low, high = torch.tensor(list(BOX.values())).T
    A = target.line_integrals
    assert ((low <= A) & (high >= A)).all()
    expected = rays().clean(A.double())
    air = rays().spectra.sum(-1)
    torch.testing.assert_close(
        torch.log(air / expected).float(), target.log_counts, rtol=0, atol=1e-4
    )


def test_thin_rays_are_near_the_lower_limits():
    low, high = torch.tensor(list(BOX.values())).double().T
    fraction = (rays().thin(4000, torch.Generator().manual_seed(0)) - low) / (high - low)
    assert ((fraction >= 0) & (fraction <= 1)).all()
    assert fraction.median(0).values.tolist() == pytest.approx([1 / 8, 1 / 8], abs=0.03)


@pytest.mark.parametrize("share", ["clean_share", "thin_share"])
def test_a_share_out_of_range_is_rejected(share):
    with pytest.raises(ValueError, match=f"{share} must lie in 0 … 1, got 1.5"):
        small_training(rays(), SobolevLoss(TOLERANCE), quiet_trainer(), **{share: 1.5})


def test_noise_falls_with_the_exposure_and_scatter_raises_the_counts():
    A = torch.tensor([[8.0, 0.5]]).double().expand(500, 2)

    def draws(**options):
        some = rays(**options)
        return some.counts(A, torch.Generator().manual_seed(1)) / some.clean(A) - 1

    faint = draws(photons=(1e4, 1e4), scatter_to_primary=0.0)
    bright = draws(photons=(1e6, 1e6), scatter_to_primary=0.0)
    assert (faint.std(0) / bright.std(0)).mean() == pytest.approx(10, rel=0.15)
    scattered = draws(photons=(1e9, 1e9), scatter_to_primary=0.4)
    assert scattered.mean() == pytest.approx(0.2, rel=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"range_g_cm2": {"water": (0.0, 9.0)}}, "range_g_cm2 names water: .* water, calcium"),
        ({"range_g_cm2": {**BOX, "water": (9.0, 0.0)}}, r"water must increase, got \[9.0, 0.0\]"),
        ({"photons": (1e5, 1e4)}, "photons must be positive and increase"),
        ({"scatter_to_primary": -0.1}, "-0.1"),
    ],
)
def test_wrong_rays_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        rays(**options)


def test_spectra_that_differ_between_pixels_are_rejected():
    with pytest.raises(ValueError, match=r"one spectrum .* decomposition=maximum_likelihood"):
        ProxyRays(fixed_scanner(n_pixels=3), BOX)


def test_a_loss_of_other_materials_is_rejected():
    loss = SobolevLoss({"water": 0.01, "iodine": 1e-4})
    with pytest.raises(ValueError, match=r"losses\.value_tolerance_g_cm2"):
        small_training(rays(), loss, quiet_trainer())


def test_a_training_that_diverges_names_the_learning_rate():
    sgd = partial(torch.optim.SGD, lr=1e9)
    with pytest.raises(FloatingPointError, match=r"training\.optimizer\.lr"):
        fit_proxy(rays(), SobolevLoss(TOLERANCE), quiet_trainer(), sgd, n_rays=500, n_batch=50)
