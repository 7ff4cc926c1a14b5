"""Laws of the table and of the linearised step: exactness, noise, derivatives, and their mask."""

import logging

import pytest
import torch
from support.scanners import FOUR_BINS, SIX_BINS, cadmium_telluride, scanner
from torch.autograd import gradcheck

from pcctlearn.decomposition.linearised import LinearisedDecomposition
from pcctlearn.decomposition.lookup import LookupDecomposition
from pcctlearn.decomposition.sensitivity import cramer_rao_bound
from pcctlearn.physics.noise import draw_counts
from pcctlearn.shapes import channels_first, channels_last

RANGE_G_CM2 = {"water": 30.0, "calcium": 4.65, "iodine": 0.2, "gadolinium": 0.2, "aluminium": 8.0}
SCANNERS = {
    "silicon": {},
    "CdTe": {"response": cadmium_telluride()},
    "aluminium": {
        "materials": ["water", "aluminium"],
        "edges_keV": [40.0, 60.0, 120.0],
        "response": cadmium_telluride(),
    },
    "iodine": {"materials": ["water", "iodine"], "edges_keV": SIX_BINS},
    "three": {"materials": ["water", "iodine", "gadolinium"], "edges_keV": SIX_BINS},
}
LAYERS = {"lookup": LookupDecomposition, "linearised": LinearisedDecomposition}
BOTH = pytest.mark.parametrize("name", LAYERS)


def built(name, model, **options):
    ranges = {m: RANGE_G_CM2[m] for m in model.materials}
    return LAYERS[name](model, **{"range_g_cm2": ranges} | options)


def line_integrals(model, shape, seed=1):
    """Area densities (*shape, material), uniform up to the end of the range."""
    far = torch.tensor([RANGE_G_CM2[m] for m in model.materials])
    share = torch.rand(*shape, len(far), generator=torch.Generator().manual_seed(seed))
    return share * far


@pytest.mark.parametrize(
    ("name", "kind", "rms", "largest"),  # errors of water in g/cm²
    [
        ("lookup", "silicon", 5e-6, 2e-4),
        ("lookup", "CdTe", 1e-4, 6e-4),
        ("lookup", "aluminium", 5e-5, 3e-4),
        ("lookup", "iodine", 5e-6, 5e-5),
        ("lookup", "three", 3e-5, 2e-4),
        ("linearised", "silicon", 2e-5, 1e-4),
        ("linearised", "CdTe", 8e-3, 0.04),
        ("linearised", "aluminium", 0.02, 0.2),
        ("linearised", "iodine", 1e-6, 2e-5),
        ("linearised", "three", 8e-6, 1e-4),
    ],
)
def test_counts_without_noise_are_inverted(name, kind, rms, largest):
    model = scanner(**SCANNERS[kind])
    truth = line_integrals(model, (1, 50, 60))
    x, converged = built(name, model)(channels_first(model(truth).detach()))
    error = (channels_last(x) - truth)[converged][..., 0]
    assert converged.double().mean() > 0.98  # a few are beyond the range by their own error
    assert error.square().mean().sqrt() < rms
    assert error.abs().max() < largest


@pytest.mark.physics
@BOTH
@pytest.mark.parametrize("kind", ["silicon", "iodine", "three"])
def test_the_noise_reaches_the_cramer_rao_bound(name, kind):
    model = scanner(**SCANNERS[kind], photons=1e7)
    truth = (0.1 + 0.6 * torch.rand(8, 1, 1)) * torch.tensor(
        [RANGE_G_CM2[m] for m in model.materials]
    )
    counts = draw_counts(
        model(truth.expand(-1, 6000, -1)).detach(), torch.Generator().manual_seed(2)
    )
    x, converged = built(name, model)(channels_first(counts[None]))
    assert converged.all()
    spectra = model.spectra().detach()
    bound = cramer_rao_bound(truth[:, 0], spectra, model.attenuation).diagonal(dim1=-2, dim2=-1)
    ratio = channels_last(x)[0].std(1) / bound.sqrt()
    # of 6000 draws the standard deviation is known to 0.9 %
    assert (ratio < 1.04).all()
    assert (ratio > 0.96).all()


@BOTH
@pytest.mark.parametrize(
    ("kind", "n_pixels"),
    [("silicon", None), ("silicon", 2), ("three", None)],
    ids=["shared", "per pixel", "three materials"],
)
def test_gradients_are_those_of_finite_differences(name, kind, n_pixels):
    """In counts with noise and in the thresholds, also where each pixel has its own."""
    model = scanner(**SCANNERS[kind], every=8, n_pixels=n_pixels)
    layer = built(name, model)
    truth = 0.1 + 0.6 * line_integrals(model, (1, 2, 2))
    counts = draw_counts(model(truth).detach(), torch.Generator().manual_seed(1))
    edges = model.thresholds.edges_keV.detach()
    n_lower = edges.shape[-1] - 1

    def solve(relative, lower_edges):
        replaced = torch.cat([lower_edges, edges[..., n_lower:]], -1)
        replaced = {"model.thresholds.edges_keV": replaced}
        noisy = channels_first(counts * (1 + relative))
        return torch.func.functional_call(layer, replaced, (noisy,)).x

    inputs = torch.zeros_like(counts), edges[..., :n_lower].clone()
    assert gradcheck(solve, [t.requires_grad_() for t in inputs], eps=1e-4, atol=2e-4, rtol=1e-3)


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_precision_and_axes_are_kept(name, dtype):
    model = scanner(every=4)
    truth = line_integrals(model, (2, 3, 4, 5))
    x, converged = built(name, model)(channels_first(model(truth).detach()).to(dtype))
    assert x.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    assert x.shape == (2, 2, 3, 4, 5)
    assert converged.shape == (2, 3, 4, 5)
    if dtype != torch.bfloat16:
        torch.testing.assert_close(channels_last(x).double(), truth, rtol=0, atol=3e-4)


@BOTH
def test_pixels_with_spectra_of_their_own_equal_a_loop(name):
    model = scanner(every=4, n_pixels=3)
    model.thresholds.assign(model.thresholds.edges_keV + torch.tensor([[-0.5], [0.0], [0.7]]))
    truth = line_integrals(model, (1, 40, 3))
    counts = channels_first(model(truth).detach())
    x, converged = built(name, model)(counts)
    assert converged.all()
    torch.testing.assert_close(channels_last(x), truth, rtol=0, atol=3e-4)
    for pixel, edges in enumerate(model.thresholds.edges_keV.detach()):
        alone = scanner(every=4, edges_keV=edges.tolist())
        found, _ = built(name, alone)(counts[..., pixel : pixel + 1])
        torch.testing.assert_close(x[..., pixel : pixel + 1], found, rtol=0, atol=3e-4)


@BOTH
def test_rays_outside_the_range_are_marked_and_pass_no_gradient(name, caplog):
    model = scanner(every=4)
    counts = channels_first(model(line_integrals(model, (1, 4, 5))).detach())
    outside = {
        (0, 0): 0 * counts[0, :, 0, 0],
        (1, 1): 1e3 * model.air().detach(),
        (2, 2): model(torch.tensor([60.0, 0.0])).detach(),
        (3, 3): model(torch.tensor([5.0, -1.0])).detach(),
        (3, 4): counts[0, :, 3, 4] * torch.tensor([1.0, 1.0, 0.0, 1.0]),
    }
    for (view, column), n in outside.items():
        counts[0, :, view, column] = n
    counts.requires_grad_()
    with caplog.at_level(logging.WARNING):
        x, converged = built(name, model)(counts)
    assert {tuple(ray[1:]) for ray in (~converged).nonzero().tolist()} == set(outside)
    assert "5 of 20" in caplog.text
    far = torch.tensor([[RANGE_G_CM2[m]] for m in model.materials])
    assert ((x[0].flatten(1) >= -0.03 * far) & (x[0].flatten(1) <= far)).all()
    (gradient,) = torch.autograd.grad(x.sum(), counts)
    gradient = channels_last(gradient)
    assert (gradient[~converged] == 0).all()
    assert (gradient[converged] != 0).all()


@BOTH
def test_a_layer_used_without_gradients_can_be_trained_later(name):
    """Lightning validates before it trains, in the inference mode of torch."""
    model = scanner(every=4).requires_grad_(False)
    layer = built(name, model)
    counts = channels_first(model(line_integrals(model, (1, 3, 4))))
    with torch.inference_mode():
        before = layer(counts.clone()).x
    counts.requires_grad_()
    x = layer(counts).x
    x.sum().backward()
    assert torch.equal(before, x)
    assert counts.grad.isfinite().all()


# the table


def test_materials_of_the_range_that_the_model_lacks_are_ignored():
    layer = LookupDecomposition(scanner(every=8), RANGE_G_CM2)
    assert layer.range_g_cm2 == [30.0, 4.65]


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({}, {"range_g_cm2": {"water": 30.0}}, "calcium"),
        ({}, {"range_g_cm2": RANGE_G_CM2, "degree": 0}, r"degree .* 0"),
        (
            {"materials": ["water", "calcium", "iodine", "gadolinium"], "edges_keV": SIX_BINS},
            {"range_g_cm2": RANGE_G_CM2},
            "3 materials, got 4: use decomposition=linearised",
        ),
    ],
)
def test_wrong_arguments_are_rejected(options, arguments, message):
    with pytest.raises(ValueError, match=message):
        LookupDecomposition(scanner(every=8, **options), **arguments)


@pytest.mark.parametrize("remedied", [False, True])
def test_a_model_without_an_inverse_is_rejected_with_a_remedy(remedied):
    """Two bins of silicon do not determine calcium ([1, Fig. 5] and ``studies.perturbation``)."""
    model = scanner(edges_keV=[15.0, 50.0, 120.0], every=4)
    counts = channels_first(model(line_integrals(model, (1, 2, 3))).detach())
    if remedied:
        assert built("linearised", model)(counts).x.isfinite().all()
        small = LookupDecomposition(model, {"water": 10.0, "calcium": 0.3})
        truth = line_integrals(model, (1, 2, 3)) / torch.tensor([3.0, 16.0])
        x, converged = small(channels_first(model(truth).detach()))
        assert converged.all()
        torch.testing.assert_close(channels_last(x), truth, rtol=0, atol=1e-3)
    else:
        with pytest.raises(ValueError, match=r"range_g_cm2: .* decomposition=linearised"):
            built("lookup", model)(counts)


def test_the_first_degree_gives_the_same_inverse():
    model = scanner(edges_keV=FOUR_BINS)
    truth = line_integrals(model, (1, 20, 30))
    counts = channels_first(model(truth).detach())
    first, second = (built("lookup", model, degree=n)(counts).x for n in (1, 2))
    torch.testing.assert_close(first, second, rtol=0, atol=3e-4)
