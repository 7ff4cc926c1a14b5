"""Decomposition by a network trained on the maximum-likelihood decomposition of one scanner."""

import logging

import torch
from torch import Tensor

from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.inputs import check
from pcctlearn.decomposition.polynomial import LEAST_PHOTONS
from pcctlearn.decomposition.proxy_file import SavedProxy
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.shapes import Counts, Spectra, channels_first, channels_last
from pcctlearn.solvers.quadratic import Solution

log = logging.getLogger(__name__)


class ProxyDecomposition(Decomposition):
    """Line integrals as a network of log counts relative to air, with Sobolev training [1].

    Values and derivatives in the counts approximate those of maximum likelihood; there is no
    derivative in thresholds, fluence and response. ``converged`` is True for rays within the range
    of the training, where every bin has half a photon or more. Other rays are clamped to that range
    and pass no gradient; a warning counts them. The exposure may differ from that of the training,
    the spectrum may not.

    Args:
        model: the scanner of the training, with the same spectra in all pixels.
        weights: file of the trained network, ``proxy.pt`` of a run of ``experiment=proxy``.
        setting: the command-line key that names the file, for error messages.

    Raises:
        FileNotFoundError: no such file. ValueError: it is damaged, or of another scanner.
    """

    def __init__(
        self, model: SpectralModel, weights: str, setting: str = "decomposition.weights"
    ) -> None:
        super().__init__(model)
        self.saved = SavedProxy(weights, setting)
        self.network = self.saved.network.requires_grad_(False)
        self.saved.require(model.materials, model.spectra().detach(), model.attenuation)
        self._last: Tensor | None = None

    def forward(self, counts: Counts) -> Solution:
        """Line integrals (batch, material, view, *pixel) in g/cm², and the mask ``converged``."""
        rays = channels_last(counts)
        if rays.dtype in (torch.float16, torch.bfloat16):  # too coarse for the logarithm
            rays = rays.float()
        spectra = self.model.spectra()
        known = spectra.detach()
        check(rays, known.to(rays), self.model.attenuation.to(rays))
        self._require_same(known)
        air = known.sum(-1).to(rays)
        p = torch.log(air / rays.clamp(min=LEAST_PHOTONS)).to(self.network.mean)
        with torch.autocast(p.device.type, enabled=False):  # half precision has 3 digits
            x = self.network(p)
            fits, inside = self.network.within(p.detach(), x.detach())
        bright = (rays.detach() >= LEAST_PHOTONS).all(-1)
        converged = fits & inside & bright
        self._report(bright, fits, inside, converged)
        x = torch.where(converged[..., None], x, x.detach().clamp(*self.network.limits))
        if spectra.requires_grad and torch.is_grad_enabled():
            x = x + _without_gradient(spectra).to(x)
        return Solution(channels_first(x.to(rays)), converged)

    def _require_same(self, spectra: Spectra) -> None:
        """Check the spectra again if they are not those of the last call, as in a calibration."""
        if self._last is None or not torch.equal(self._last, spectra):
            self.saved.require(self.model.materials, spectra, self.model.attenuation)
            self._last = spectra.clone()

    def _report(self, bright: Tensor, fits: Tensor, inside: Tensor, converged: Tensor) -> None:
        if bool(converged.all()):
            return
        low, high = self.network.limits.tolist()
        ranges = ", ".join(
            f"{name} {a:.3g} … {b:.3g} g/cm²"
            for name, a, b in zip(self.model.materials, low, high, strict=True)
        )
        log.warning(
            "%d of %d rays lie outside the training range of the proxy: %d with an empty bin, %d "
            "with other line integrals than %s, %d with combinations of counts that it was not "
            "trained on; use decomposition=maximum_likelihood for such rays, or train the proxy "
            "again with a wider study.rays.range_g_cm2",
            int((~converged).sum()),
            converged.numel(),
            int((~bright).sum()),
            int((bright & ~inside).sum()),
            ranges,
            int((bright & inside & ~fits).sum()),
        )


def _without_gradient(spectra: Tensor) -> Tensor:
    """Zero, which raises an error if a derivative in the spectra is wanted."""
    zero = 0 * spectra.sum()
    zero.register_hook(_refuse)
    return zero


def _refuse(gradient: Tensor) -> None:
    raise ValueError(
        "a proxy has no derivative in thresholds, fluence and response: use "
        "decomposition=maximum_likelihood, or fix them with model.requires_grad_(False)"
    )
