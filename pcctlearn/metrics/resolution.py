"""Resolution and texture of images: MTF from the edge of a disc, and noise power spectrum."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.metrics.inserts import Draws, require_draws

Image = Float[Tensor, "y x"]

_PER_VOXEL = 8  # samples of the edge profile
_REACH_VOXELS = 8.0  # of the edge-spread function on either side of the edge


class Curve(NamedTuple):
    """Values at spatial frequencies in 1/cm."""

    frequencies_per_cm: Float[Tensor, "frequency"]
    values: Float[Tensor, "frequency"]

    def crossing_per_cm(self, level: float) -> float:
        """First frequency at which the values fall below a level, linear between samples.

        The last frequency if they do not.
        """
        below = (self.values < level).nonzero().flatten()
        if not len(below) or below[0] == 0:
            return self.frequencies_per_cm[-1 if not len(below) else 0].item()
        (f0, f1), (v0, v1) = (x[below[0] - 1 : below[0] + 1].tolist() for x in self)
        return f0 + (f1 - f0) * (v0 - level) / (v0 - v1)

    @property
    def mean_per_cm(self) -> float:
        """Mean frequency, weighted with the values."""
        return ((self.frequencies_per_cm * self.values).sum() / self.values.sum()).item()


def disc_mtf(
    image: Image,
    points_cm: Float[Tensor, "y x 2"],
    center_cm: tuple[float, float],
    radius_cm: float,
) -> Curve:
    """Task-based transfer function from the edge of a disc, |Fourier transform of the LSF|.

    Voxels around the edge are sorted by their distance from the center, which samples the
    edge-spread function more finely than the voxels; its derivative is the line-spread function,
    tapered in its outer halves. Use an image without noise or a mean of many: noise raises the
    transfer function at high frequencies.

    S. Richard et al., "Towards task-based assessment of CT performance", Med. Phys. 39 (2012).
    doi:10.1118/1.4725171

    Raises:
        ValueError: the disc is too small for its edge to be told from its center.
    """
    voxel_cm = (points_cm[0, 1, 0] - points_cm[0, 0, 0]).item()
    reach_cm = min(_REACH_VOXELS * voxel_cm, radius_cm)
    require_resolved(radius_cm, voxel_cm)
    distance = (points_cm - points_cm.new_tensor(center_cm)).norm(dim=-1) - radius_cm
    step_cm = voxel_cm / _PER_VOXEL
    near = distance.abs() < reach_cm
    index = ((distance[near] + reach_cm) / step_cm).long()
    n = int(2 * reach_cm / step_cm) + 1
    weight = torch.bincount(index, minlength=n).to(image)
    total = torch.zeros(n).to(image).scatter_add(0, index, image[near])
    filled = (weight > 0).nonzero().flatten()
    edge = _interpolated(torch.arange(n).to(image), filled.to(image), (total / weight)[filled])
    line = edge.diff() * _flat_window(n - 1).to(image)
    spectrum = torch.fft.rfft(line, 8 * n).abs()
    frequencies = torch.fft.rfftfreq(8 * n, step_cm).to(image)
    kept = frequencies <= 0.5 / voxel_cm
    return Curve(frequencies[kept], (spectrum / spectrum[0])[kept])


def require_resolved(radius_cm: float, voxel_cm: float) -> None:
    """Raise ValueError for a disc whose edge cannot be told from its center."""
    if radius_cm < 3 * voxel_cm:
        raise ValueError(
            f"the edge of a disc of {radius_cm:g} cm is not resolved by voxels of {voxel_cm:g} cm: "
            f"use voxels of at most {radius_cm / 3:.2g} cm"
        )


def noise_power(images: Draws, voxel_cm: float) -> Curve:
    """Radial noise power spectrum of a square region, in (unit of the images)² cm².

    NPS(f) = Δ²/(n_x n_y) ⟨|DFT(image − mean over the draws)|²⟩ · n/(n − 1) with n draws, averaged
    over annuli one frequency step wide up to the Nyquist frequency. The region is the whole image.

    S. J. Riederer, N. J. Pelc and D. A. Chesler, "The noise power spectrum in computed X-ray
    tomography", Phys. Med. Biol. 23 (1978). doi:10.1088/0031-9155/23/3/008
    """
    require_draws(images)
    n_draws, n_y, n_x = images.shape
    noise = images - images.mean(0)
    power = torch.fft.fft2(noise).abs().square().sum(0) / (n_draws - 1)
    power = power * voxel_cm**2 / (n_y * n_x)
    fy, fx = (torch.fft.fftfreq(n, voxel_cm).to(images) for n in (n_y, n_x))
    radius = torch.hypot(fy[:, None], fx)
    step = 1 / (min(n_y, n_x) * voxel_cm)
    ring = (radius / step).round().long()
    n_rings = int(0.5 / voxel_cm / step) + 1
    inside = ring < n_rings
    count = torch.bincount(ring[inside], minlength=n_rings).to(images)
    total = torch.zeros(n_rings).to(images).scatter_add(0, ring[inside], power[inside])
    return Curve(step * torch.arange(n_rings).to(images), total / count)


def _flat_window(n: int) -> Float[Tensor, "sample"]:
    """Tukey window: one in its middle half, a cosine to zero on both sides."""
    x = torch.linspace(-1, 1, n, dtype=torch.float64).abs()
    return torch.where(x < 0.5, 1.0, 0.5 + 0.5 * torch.cos(2 * torch.pi * (x - 0.5)))


def _interpolated(
    at: Float[Tensor, "sample"], x: Float[Tensor, "known"], y: Float[Tensor, "known"]
) -> Float[Tensor, "sample"]:
    """Linear interpolation between known samples, constant beyond them."""
    right = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    x0, x1, y0, y1 = x[right - 1], x[right], y[right - 1], y[right]
    return y0 + (y1 - y0) * ((at - x0) / (x1 - x0)).clamp(0, 1)
