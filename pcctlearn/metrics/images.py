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
    error: Image, points_cm: Float[Tensor, "y x 2"], body: Bool[Tensor, "y x"], width_cm: float
) -> float:
    """RMS over a body of the rings of an error image.

    A ring is the mean of the error over the body at one radius about the axis of rotation, minus
    the mean over the radii within ``width_cm``.
    """
    spacing_cm = float(points_cm[0, 1, 0] - points_cm[0, 0, 0])
    radius = (points_cm.norm(dim=-1) / abs(spacing_cm)).round().long()[body]
    count = torch.bincount(radius).double()
    mean = torch.bincount(radius, error[body].double()) / count.clamp(min=1)
    half = max(1, round(width_cm / abs(spacing_cm) / 2))
    sums = [torch.nn.functional.pad(v, (half, half)).unfold(0, 2 * half + 1, 1).sum(-1)
            for v in (mean * (count > 0), (count > 0).double())]  # fmt: skip
    ring = mean - sums[0] / sums[1].clamp(min=1)
    return float(((count * ring.square()).sum() / count.sum()).sqrt())
