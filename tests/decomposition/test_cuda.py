"""Results on a CUDA device equal those on the CPU."""

import pytest
import torch
from support.scanners import FOUR_BINS, SPECTRA, scanner, silicon

from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.thresholds import Thresholds

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
RAYS = [[0.0, 0.0], [10.0, 0.5], [25.0, 2.0]]


@pytest.mark.parametrize("n_pixels", [None, 3])
def test_a_model_moved_to_the_device_expects_the_same_counts(n_pixels):
    rays, gradients = torch.tensor(RAYS), []
    for device in ("cpu", "cuda"):
        model = scanner(response=silicon(learn=True), n_pixels=n_pixels).to(device)
        counts = model(rays.to(device))
        assert counts.device.type == device
        counts.log().sum().backward()
        gradients.append([counts, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(gradients[0]) > 3
    for cpu, cuda in zip(*gradients, strict=True):
        torch.testing.assert_close(cuda.cpu(), cpu)


@pytest.mark.parametrize("n_pixels", [None, 3])
def test_a_model_built_on_the_device_stays_on_it(n_pixels):
    tube = Spectrum(SPECTRA / "tungsten_120kV_12deg.csv", {"aluminium": 0.2}, photons_per_pixel=1e6)
    energies, fluence = tube.energies_keV.cuda(), tube.fluence.cuda()
    attenuation = attenuation_table(["water", "calcium"], energies)
    thresholds = Thresholds(torch.tensor(FOUR_BINS, device="cuda"), n_pixels)
    model = SpectralModel(energies, fluence, silicon().cuda(), thresholds, attenuation)
    counts = model(torch.tensor(RAYS, device="cuda"))
    torch.testing.assert_close(counts.cpu(), scanner(n_pixels=n_pixels)(torch.tensor(RAYS)))


@pytest.mark.parametrize("n_pixels", [None, 3])
def test_decompose_and_its_gradients_with_bounds(n_pixels):
    model, generator = scanner(every=4, n_pixels=n_pixels), torch.Generator().manual_seed(1)
    truth = torch.tensor([10.0, 0.7]) * (0.5 + torch.rand(40, 3, 2, generator=generator))
    counts = draw_counts(model(truth).detach(), generator)
    bounds = [[-5.0, 0.0], [60.0, 0.6]]  # active for some of the rays
    results = []
    for device in ("cpu", "cuda"):
        theta = [
            t.detach().to(device).requires_grad_()
            for t in (counts, model.spectra(), model.attenuation)
        ]
        x, converged = decompose(*theta, bounds=bounds)
        assert converged.all()
        assert (x[..., 1] == 0.6).any()
        results.append([x, *torch.autograd.grad(x.sum(), theta)])
    for cpu, cuda in zip(*results, strict=True):
        assert cuda.device.type == "cuda"
        torch.testing.assert_close(cuda.cpu(), cpu, rtol=1e-6, atol=1e-6 * cpu.abs().max().item())
