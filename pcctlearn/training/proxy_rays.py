"""Rays on which a proxy is trained: within a box of area densities, with noise and scatter."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from pcctlearn.losses.sobolev import SobolevTarget, sobolev_target
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.shapes import RayMask

_PHOTONS = 1e9  # per ray, so that even thick rays have more than the half photon of decompose


class ProxyRays:
    """Rays with uniform area densities in a box, with or without noise and scatter.

    Poisson noise has log-uniform exposures. Scatter adds the counts behind another ray of the box,
    scaled to a uniform ratio to the primary counts of all bins together.

    Args:
        model: the scanner, with the same spectra in all pixels.
        range_g_cm2: {material: (lower, upper)} of every basis material.
        photons: least and largest number of photons that reach a pixel without an object.
        scatter_to_primary: largest ratio.

    Raises:
        ValueError: wrong materials, ranges or exposures, or spectra that differ between pixels.
    """

    def __init__(
        self,
        model: SpectralModel,
        range_g_cm2: Mapping[str, Sequence[float]],
        photons: Sequence[float] = (1e5, 1e7),
        scatter_to_primary: float = 0.3,
    ) -> None:
        if set(range_g_cm2) != set(model.materials):
            raise ValueError(
                f"range_g_cm2 names {', '.join(range_g_cm2)}: give each of the basis materials "
                f"{', '.join(model.materials)} and no other"
            )
        for name, limits in range_g_cm2.items():
            if len(limits) != 2 or not limits[0] < limits[1]:
                raise ValueError(f"range_g_cm2.{name} must increase, got {list(limits)}")
        if len(photons) != 2 or not 0 < photons[0] <= photons[1]:
            raise ValueError(f"photons must be positive and increase, got {list(photons)}")
        if scatter_to_primary < 0:
            raise ValueError(f"scatter_to_primary must not be negative, got {scatter_to_primary}")
        spectra = model.spectra().detach().double()
        if spectra.ndim != 2:
            raise ValueError(
                "a proxy is trained for one spectrum of all pixels, but the spectra differ: use "
                "decomposition=maximum_likelihood"
            )
        self.spectra = spectra / model.fluence.double().sum()  # per photon that reaches a pixel
        self.attenuation = model.attenuation.double()
        self.limits = spectra.new_tensor([list(range_g_cm2[name]) for name in model.materials]).T
        self.photons, self.scatter_to_primary = photons, scatter_to_primary
        self.materials = list(model.materials)

    def uniform(self, n: int, generator: torch.Generator) -> Float[Tensor, "ray material"]:
        """Area densities in g/cm², uniform in the box."""
        return self._within(self._random(n, generator))

    def thin(self, n: int, generator: torch.Generator) -> Float[Tensor, "ray material"]:
        """Area densities in g/cm², denser near the lower limits: cubes of uniform fractions."""
        return self._within(self._random(n, generator) ** 3)

    def _random(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.rand(n, len(self.materials), generator=generator, dtype=torch.float64)

    def _within(self, fraction: Float[Tensor, "ray material"]) -> Tensor:
        low, high = self.limits
        return low + (high - low) * fraction

    def counts(
        self, line_integrals: Float[Tensor, "ray material"], generator: torch.Generator
    ) -> Float[Tensor, "ray bin"]:
        """Counts per photon that reaches a pixel, of rays with noise and scatter."""
        n = len(line_integrals)

        def random() -> Tensor:
            return torch.rand(n, 1, generator=generator, dtype=torch.float64)

        primary = self.clean(line_integrals)
        other = self.clean(self.uniform(n, generator))
        ratio = self.scatter_to_primary * random() * primary.sum(-1, keepdim=True)
        mean = primary + ratio * other / other.sum(-1, keepdim=True)
        low, high = self.photons
        photons = low * (high / low) ** random()
        return draw_counts(photons * mean, generator) / photons

    def clean(self, line_integrals: Float[Tensor, "ray material"]) -> Float[Tensor, "ray bin"]:
        """Expected counts per photon that reaches a pixel."""
        return expected_counts(line_integrals, self.spectra, self.attenuation)

    def draw(
        self,
        n: int,
        generator: torch.Generator,
        clean_share: float = 1.0,
        thin_share: float = 0.0,
    ) -> SobolevTarget:
        """Up to n rays with their decomposition and its derivative, in float32.

        Rays whose decomposition lies outside the box, because of noise or scatter, are left out.

        Args:
            n, generator: number of rays, and randomness.
            clean_share: share of rays without noise and scatter.
            thin_share: share of rays from ``thin``; the others are uniform in the box.
        """
        n_thin, n_clean = round(thin_share * n), round(clean_share * n)
        A = torch.cat([self.thin(n_thin, generator), self.uniform(n - n_thin, generator)])
        A = A[torch.randperm(n, generator=generator)]
        counts = torch.cat([self.clean(A[:n_clean]), self.counts(A[n_clean:], generator)])
        target, _ = self.target(counts)
        low, high = self.limits
        inside = ((target.line_integrals >= low) & (target.line_integrals <= high)).all(-1)
        return SobolevTarget(*(part[inside].float() for part in target))

    def target(self, counts: Float[Tensor, "ray bin"]) -> tuple[SobolevTarget, RayMask]:
        """The decomposition of counts per photon, as ``sobolev_target``; it has no scale."""
        return sobolev_target(_PHOTONS * counts, _PHOTONS * self.spectra, self.attenuation)


class RaySet(Dataset):
    """Rays that a sampler of batches takes, a list of indices at a time."""

    def __init__(self, target: SobolevTarget) -> None:
        self.target = target

    def __len__(self) -> int:
        """Number of rays."""
        return len(self.target.log_counts)

    def __getitem__(self, index: list[int]) -> SobolevTarget:
        """One batch."""
        return SobolevTarget(*(values[index] for values in self.target))
