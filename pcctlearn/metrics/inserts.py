"""Inserts of a phantom: bias, noise and contrast-to-noise ratio over repeated noise."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

Draws = Float[Tensor, "draw y x"]
Mask = Bool[Tensor, "y x"]


class InsertErrors(NamedTuple):
    """Errors of a disc over draws of the noise, in the unit of the images.

    Args:
        bias: mean over voxels and draws minus the true value.
        sd: standard deviation of a voxel over the draws, root mean square over the disc.
        mean_sd: standard deviation of the mean of the disc over the draws.
        cnr: difference of the means of disc and background, over ``sd`` of the background.
    """

    bias: float
    sd: float
    mean_sd: float
    cnr: float


def disc(points_cm: Float[Tensor, "y x 2"], center_cm: Sequence[float], radius_cm: float) -> Mask:
    """Voxels whose center lies in a disc; ValueError if there is none."""
    inside = (points_cm - points_cm.new_tensor(center_cm)).square().sum(-1) <= radius_cm**2
    if not inside.any():
        raise ValueError(
            f"no voxel lies in the disc of {radius_cm:g} cm at {tuple(center_cm)} cm: use a finer "
            "grid or larger inserts"
        )
    return inside


def voxel_sd(images: Draws, inside: Mask) -> float:
    """Standard deviation over the draws of a voxel, root mean square over a region."""
    require_draws(images)
    return images[:, inside].var(0).mean().sqrt().item()


def insert_errors(images: Draws, inside: Mask, background: Mask, true: float) -> InsertErrors:
    """Errors of a material map, or of a monoenergetic image, in a disc.

    Inhomogeneities that all draws share, such as streaks and cupping, enter the bias only, since
    noise is what differs between draws. Leave out a margin at the edge of an insert, which is
    blurred.
    """
    require_draws(images)
    means = images[:, inside].mean(1)
    contrast = means.mean() - images[:, background].mean()
    return InsertErrors(
        bias=means.mean().item() - true,
        sd=voxel_sd(images, inside),
        mean_sd=means.std().item(),
        cnr=contrast.abs().item() / voxel_sd(images, background),
    )


def cnr_over_energy(
    images: Float[Tensor, "draw keV y x"], inside: Mask, background: Mask
) -> Float[Tensor, "keV"]:
    """Contrast-to-noise ratio of a disc in monoenergetic images, |m − m_b| / sd_b, by energy."""
    require_draws(images[:, 0])
    contrast = images[..., inside].mean((0, -1)) - images[..., background].mean((0, -1))
    return contrast.abs() / images[..., background].var(0).mean(-1).sqrt()


def require_draws(images: Draws) -> None:
    """Raise ValueError for fewer than two draws, which have no standard deviation."""
    if len(images) < 2:
        raise ValueError(f"noise needs two draws or more, got {len(images)}: use study.n_draws=20")
