"""Methods are timed in turns, with and without a gradient."""

import torch
from support.proxies import fixed_scanner

from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.studies.layer_speed import Timed, of_layer, rays_per_second, untrained_proxy


def test_methods_without_a_gradient_are_timed_forward():
    model = fixed_scanner()
    counts = model(torch.tensor([[[[5.0, 0.3]]]])).movedim(-1, 1)
    timed = of_layer(MaximumLikelihood(model), counts, 1)
    speeds = rays_per_second({"layer": timed, "other": timed._replace(forward_backward=None)})
    assert set(speeds) == {
        "layer_forward_rays_per_second",
        "layer_forward_backward_rays_per_second",
        "other_forward_rays_per_second",
    }


def test_the_first_call_is_not_counted_and_methods_take_turns():
    order = []
    one = Timed(lambda: order.append("one"), None, 1, 2)
    other = Timed(lambda: order.append("other"), None, 1, 1)
    rays_per_second({"one": one, "other": other})
    assert order == ["one", "other", "one", "other", "one"]


def test_an_untrained_proxy_covers_all_rays():
    model = fixed_scanner()
    A = torch.tensor([[[[0.0, 0.0], [20.0, 2.0]]]])
    x, converged = untrained_proxy(model, [8])(model(A).movedim(-1, 1).float())
    assert converged.all()
    assert x.shape == (1, 2, 1, 2)


def test_an_untrained_proxy_may_have_three_materials():
    """Of opaque objects nothing is left in double precision."""
    layer = untrained_proxy(fixed_scanner(materials=["water", "calcium", "iodine"]), [8])
    x, converged = layer(layer.model.air()[None, :, None, None].float())
    assert x.isfinite().all()
    assert converged.all()
