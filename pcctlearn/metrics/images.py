"""Similarity of images to a reference: errors over a body, SSIM, and differences of regions."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Image = Float[Tensor, "y x"]


def structural_similarity(image: Image, reference: Image, body: Bool[Tensor, "y x"]) -> float:
    """Mean over a body of the SSIM in windows of 7 × 7 voxels; the range is that of the reference
    in the body (Z. Wang et al., IEEE Trans. Image Process. 13 (2004) 600).
    """
    from monai.metrics.regression import compute_ssim_and_cs  # takes seconds

    data_range = float(reference[body].max() - reference[body].min())
    windows, _ = compute_ssim_and_cs(
        image[None, None].float(),
        reference[None, None].float(),
        spatial_dims=2,
        kernel_size=(7, 7),
        kernel_sigma=(1.5, 1.5),
        data_range=data_range,
        kernel_type="uniform",
    )
    return windows[0, 0][body[3:-3, 3:-3]].mean().item()


def region_means(
    image: Image,
    points_cm: Float[Tensor, "y x 2"],
    centers_cm: Float[Tensor, "region 2"],
    radius_cm: float,
) -> Float[Tensor, "region"]:
    """Means of an image over discs."""
    discs = [
        (points_cm - center).square().sum(-1) <= radius_cm**2 for center in centers_cm.to(points_cm)
    ]
    return torch.stack([image[disc].mean() for disc in discs])


def region_difference(
    image: Image,
    points_cm: Float[Tensor, "y x 2"],
    centers_cm: Float[Tensor, "region 2"],
    radius_cm: float,
) -> float:
    """Largest minus smallest mean of discs in an image, which are of one material [2, eq. 26]."""
    means = region_means(image, points_cm, centers_cm, radius_cm)
    return (means.max() - means.min()).item()


def ring_rms(
    difference: Image,
    points_cm: Float[Tensor, "y x 2"],
    body: Bool[Tensor, "y x"],
    width_cm: float,
    smooth_cm: float = 2.0,
) -> float:
    """Root mean square of rings about the axis in a difference of images, over a body.

    Rings are means over annuli of ``width_cm``, less their running mean over ``smooth_cm``, which
    is cupping.
    """
    radius = points_cm.norm(dim=-1)[body]
    ring = (radius / width_cm).long()
    n = int(ring.max()) + 1
    weight = torch.bincount(ring, minlength=n).to(difference)
    total = torch.zeros(n, dtype=difference.dtype).scatter_add(0, ring, difference[body])
    kernel = torch.ones(1, 1, 2 * round(smooth_cm / width_cm / 2) + 1, dtype=difference.dtype)

    def summed(values: Float[Tensor, "ring"]) -> Float[Tensor, "ring"]:
        return torch.nn.functional.conv1d(values[None, None], kernel, padding="same")[0, 0]

    rings = total / weight.clamp(min=1) - summed(total) / summed(weight).clamp(min=1)
    return ((rings.square() * weight).sum() / weight.sum()).sqrt().item()
