"""Names of the axes in all signatures.

``*ray`` and ``*pixel`` may be several axes: view, [row,] column, with or without a batch.
A ``*pixel`` prefix broadcasts against the last axes of ``*ray``: spectra of shape (column, bin,
energy) belong to counts of shape (view, column, bin).
"""

from jaxtyping import Bool, Float
from torch import Tensor

RayCounts = Float[Tensor, "*ray bin"]
RayLineIntegrals = Float[Tensor, "*ray material"]
RayMask = Bool[Tensor, "*ray"]
Projections = Float[Tensor, "*ray threshold"]
Spectra = Float[Tensor, "*pixel bin energy"]
Fluence = Float[Tensor, "*pixel energy"]
Edges = Float[Tensor, "*pixel edge"]
Attenuation = Float[Tensor, "material energy"]
Energies = Float[Tensor, "energy"]

Counts = Float[Tensor, "batch bin view *pixel"]
LineIntegrals = Float[Tensor, "batch material view *pixel"]
Maps = Float[Tensor, "batch material *voxel"]
Vmi = Float[Tensor, "batch keV *voxel"]


def channels_last(images: Tensor) -> Tensor:
    """(batch, channel, view, *pixel) to rays (batch, view, *pixel, channel)."""
    return images.movedim(1, -1)


def channels_first(rays: Tensor) -> Tensor:
    """Rays (batch, view, *pixel, channel) to (batch, channel, view, *pixel)."""
    return rays.movedim(-1, 1)
