"""MONAI transforms for training on volumes of HU or on maps."""

from collections.abc import Callable
from math import radians

import torch
from torch import Tensor

from pcctlearn.datasets.ct_volume import CtVolume

HOUSE_AXES = "SPL"  # MONAI's name of them: slices upwards, rows to the back, columns to the left


def network_input(
    voxel_cm: tuple[float, float, float] | None = None, axes: str = HOUSE_AXES
) -> Callable[[CtVolume], Tensor]:
    """From a CtVolume to (1, …) in HU, a ``monai.transforms.Compose``.

    Args:
        voxel_cm: along z, y and x; ``None`` for those of the volume.
        axes: as MONAI writes them. Networks trained elsewhere often want "RAS".
    """
    from monai import transforms as t

    resampling = []
    if voxel_cm is not None:
        size_mm = [10 * size for size in voxel_cm]
        resampling = [t.Spacing(size_mm, padding_mode="border", scale_extent=True)]
    return t.Compose(
        [
            t.Lambda(_with_affine),
            *resampling,
            t.Orientation(axes, labels=None),
            t.EnsureType(track_meta=False),
        ]
    )


def _with_affine(volume: CtVolume) -> Tensor:
    from monai.data import MetaTensor

    z_mm, y_mm, x_mm = (10 * size for size in volume.voxel_cm)
    to_right_anterior_superior = torch.tensor(
        [[0, 0, -x_mm, 0], [0, -y_mm, 0, 0], [z_mm, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64
    )
    return MetaTensor(volume.hounsfield[None], to_right_anterior_superior)


def augmentation(
    seed: int,
    air: float = 0.0,
    flip: float = 0.5,
    rotation_deg: float = 5.0,
    scale: float = 0.05,
    shift_voxels: float = 4.0,
    jitter: float = 0.02,
) -> Callable[[Tensor], Tensor]:
    """Random patients from one: a ``monai.transforms.Compose`` on (channel, z, y, x).

    Args:
        seed: of the random numbers; the same seed gives the same sequence.
        air: value of air, which moves in from outside: 0 in maps, −1000 in HU.
        flip: probability of exchanging left and right.
        rotation_deg: largest turn about z.
        scale: largest relative change of size along each axis.
        shift_voxels: largest shift in the slice.
        jitter: largest relative change of density, one for all channels.
    """
    from monai import transforms as t

    return t.Compose(
        [
            t.ShiftIntensity(-air),  # air is zero here, so padding is air and density scales
            t.RandFlip(flip, spatial_axis=2),
            t.RandAffine(
                1.0,
                rotate_range=(radians(rotation_deg), 0, 0),
                translate_range=(0, shift_voxels, shift_voxels),
                scale_range=(scale, scale, scale),
                mode="bilinear",
                padding_mode="zeros",
            ),
            t.RandScaleIntensity(jitter, prob=1.0),
            t.ShiftIntensity(air),
            t.EnsureType(track_meta=False),
        ]
    ).set_random_state(seed)
