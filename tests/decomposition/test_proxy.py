"""The proxy as a decomposition: its file, its scanner, its range and its gradients."""

import logging

import pytest
import torch
from support.proxies import BOX, fixed_scanner, small_proxy
from support.scanners import SIX_BINS, cadmium_telluride

from pcctlearn.chain import Chain
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.decomposition.proxy import ProxyDecomposition
from pcctlearn.decomposition.proxy_file import save_proxy
from pcctlearn.shapes import channels_first


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory):
    path = tmp_path_factory.mktemp("proxy") / "proxy.pt"
    save_proxy(path, small_proxy().network, fixed_scanner())
    return str(path)


def image(model, dtype=torch.float32):
    """Counts (batch, bin, view, column) within the box, and the true line integrals."""
    far = 0.9 * torch.tensor([high for _, high in BOX.values()])
    truth = torch.rand(2, 3, 5, 2, generator=torch.Generator().manual_seed(1)) * far
    return channels_first(model(truth.double()).to(dtype)), channels_first(truth)


def test_the_saved_network_gives_identical_results(path):
    model = fixed_scanner()
    counts, _ = image(model)
    layer, again = ProxyDecomposition(model, path), ProxyDecomposition(model, path)
    x, converged = layer(counts)
    assert converged.all()
    assert torch.equal(x, again(counts).x)
    trained = small_proxy().network
    p = torch.rand(50, 4, generator=torch.Generator().manual_seed(2)).float() * 3
    assert torch.equal(layer.network(p), trained(p))
    assert torch.equal(layer.network.z_limits, trained.z_limits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_it_approximates_the_exact_layer_in_a_chain(path, dtype):
    model = fixed_scanner()
    counts, truth = image(model, dtype)
    scan = Chain(ProxyDecomposition(model, path))(counts)
    assert scan.line_integrals.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    if dtype != torch.bfloat16:
        error = (scan.line_integrals - truth).abs().amax((0, 2, 3))
        assert (error < torch.tensor([1.0, 0.2])).all()


def test_gradients_reach_the_counts_and_resemble_those_of_the_exact_layer(path):
    model = fixed_scanner()
    counts, _ = image(model)
    slopes = []
    for layer in (ProxyDecomposition(model, path), MaximumLikelihood(model)):
        n = counts.clone().requires_grad_()
        layer(n).x[:, 0].sum().backward()
        slopes.append(n.grad * counts)
    proxy, exact = slopes
    assert ((proxy - exact).norm(dim=1) / exact.norm(dim=1)).median() < 0.25


def test_the_exposure_may_differ_from_that_of_the_training(path):
    bright, dim = fixed_scanner(photons=1e6), fixed_scanner(photons=1e4)
    results = [ProxyDecomposition(m, path)(image(m)[0]).x for m in (bright, dim)]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_pixels_with_the_same_spectrum_are_decomposed(path):
    model = fixed_scanner(n_pixels=5)
    counts, _ = image(fixed_scanner())
    shared = ProxyDecomposition(fixed_scanner(), path)(counts).x
    torch.testing.assert_close(ProxyDecomposition(model, path)(counts).x, shared)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"materials": ["water", "iodine"]}, r"materials=\[water,calcium\]"),
        ({"edges_keV": SIX_BINS}, r"4 energy bins, not 6: .*edges_keV=\[15,33,45,59,120\]"),
        ({"edges_keV": [15.0, 33.0, 45.5, 59.0, 120.0]}, "thresholds, 15,33,45,59,120 keV"),
        ({"response": cadmium_telluride()}, "detector response .* experiment=proxy"),
    ],
)
def test_another_scanner_is_rejected_with_a_remedy(path, options, message):
    with pytest.raises(ValueError, match=message) as error:
        ProxyDecomposition(fixed_scanner(**options), path)
    assert path in str(error.value)


def test_thresholds_that_change_after_the_construction_are_noticed(path):
    model = fixed_scanner()
    layer = ProxyDecomposition(model, path)
    counts, _ = image(model)
    layer(counts)
    model.thresholds.assign(model.thresholds.edges_keV + 0.5)
    with pytest.raises(ValueError, match="thresholds"):
        layer(counts)


def test_a_gradient_in_the_thresholds_is_refused(path):
    model = fixed_scanner()
    model.thresholds.requires_grad_(True)
    counts = image(model)[0].detach().requires_grad_()
    x = ProxyDecomposition(model, path)(counts).x
    (slope,) = torch.autograd.grad(x.sum(), counts, retain_graph=True)
    assert slope.abs().sum() > 0
    with pytest.raises(ValueError, match="decomposition=maximum_likelihood"):
        torch.autograd.grad(x.sum(), model.thresholds.edges_keV)


def test_rays_outside_the_training_range_are_named_and_pass_no_gradient(path, caplog):
    model = fixed_scanner()
    truth = torch.tensor([[5.0, 0.3], [25.0, 0.3], [5.0, 3.0], [5.0, 0.3], [5.0, 0.3]])
    counts = model(truth.double())
    counts[3, 1] *= 3  # no object has such counts
    counts[4, 0] = 0
    n = channels_first(counts.float()[None, None]).requires_grad_()
    with caplog.at_level(logging.WARNING):
        x, converged = ProxyDecomposition(model, path)(n)
    assert converged.flatten().tolist() == [True, False, False, False, False]
    assert "4 of 5 rays" in caplog.text
    assert "1 with an empty bin" in caplog.text
    assert "study.rays.range_g_cm2" in caplog.text
    assert x.isfinite().all()
    x.sum().backward()
    reached = n.grad.abs().sum(1).flatten() > 0
    assert reached.tolist() == [True, False, False, False, False]


def test_rays_within_the_range_are_not_warned_of(path, caplog):
    model = fixed_scanner()
    with caplog.at_level(logging.WARNING):
        ProxyDecomposition(model, path)(image(model)[0])
    assert not caplog.text


@pytest.mark.parametrize("value", [-1.0, torch.nan])
def test_impossible_counts_are_rejected(path, value):
    model = fixed_scanner()
    counts, _ = image(model)
    counts[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="counts must be finite and not negative"):
        ProxyDecomposition(model, path)(counts)


def test_a_file_that_does_not_exist_names_the_experiment(tmp_path):
    with pytest.raises(FileNotFoundError, match="experiment=proxy"):
        ProxyDecomposition(fixed_scanner(), str(tmp_path / "none.pt"))


class Anything:
    """An object that must not be loaded."""


@pytest.mark.parametrize(
    "change",
    [
        lambda content: Anything(),
        lambda content: [1, 2],
        lambda content: {**content, "widths": [16, 10**9]},
        lambda content: {**content, "widths": [16, 17]},
        lambda content: {**content, "widths": "16"},
        lambda content: {**content, "weights": {}},
        lambda content: {k: v for k, v in content.items() if k != "scanner"},
        lambda content: {**content, "scanner": {**content["scanner"], "materials": [3, 4]}},
        lambda content: {**content, "scanner": {**content["scanner"], "edges_keV": ["a"]}},
        lambda content: {**content, "scanner": {**content["scanner"], "air_shares": torch.nan}},
        lambda content: {**content, "scanner": {**content["scanner"], "log_counts": 3.0}},
        lambda content: {
            **content,
            "weights": {k: v * torch.nan for k, v in content["weights"].items()},
        },
    ],
)
def test_a_damaged_file_is_one_sentence(path, tmp_path, change):
    content = torch.load(path, weights_only=True)
    wrong = tmp_path / "wrong.pt"
    torch.save(change(content), wrong)
    with pytest.raises(ValueError, match=r"wrong\.pt is damaged or not a trained proxy") as error:
        ProxyDecomposition(fixed_scanner(), str(wrong))
    assert "experiment=proxy" in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_archive_are_rejected(tmp_path):
    wrong = tmp_path / "wrong.pt"
    wrong.write_bytes(b"not an archive")
    with pytest.raises(ValueError, match="not a trained proxy"):
        ProxyDecomposition(fixed_scanner(), str(wrong))
