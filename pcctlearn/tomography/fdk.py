"""The reconstruction of Feldkamp, Davis and Kress, cone beam, as one linear operator."""

from functools import partial
from typing import Literal, overload

from pcctlearn.tomography.cone_geometry import ConeBeam
from pcctlearn.tomography.cone_projector import ConeBackprojector
from pcctlearn.tomography.fbp import reconstruction
from pcctlearn.tomography.linear_operator import LinearOperator
from pcctlearn.tomography.truncation import WaterExtended


@overload
def fdk(
    geometry: ConeBeam,
    window: str = ...,
    kernels: str = ...,
    *,
    truncation: Literal["cosine"],
) -> LinearOperator: ...
@overload
def fdk(
    geometry: ConeBeam,
    window: str = ...,
    kernels: str = ...,
    truncation: str = ...,
    water_density: float = ...,
) -> LinearOperator | WaterExtended: ...
def fdk(
    geometry: ConeBeam,
    window: str = "ramp",
    kernels: str = "auto",
    truncation: str = "water",
    water_density: float = 1.0,
) -> LinearOperator | WaterExtended:
    """Sinogram (view, row, column) in operand · cm to volume (z, y, x) in operand.

    f(p) = ∫ (q ∗ h)(θ, v(p), u(p)) / depth(p)² dθ, with q = w D / √(D² + u² + v²) · line
    integrals, h the ramp along rows, scaled down to the axis, and w the redundancy weights. It is
    exact in the plane of the orbit; away from it densities fall off with the cone angle.
    ``kernels`` as in ``ConeBackprojector``, ``truncation`` and ``water_density`` as in ``fbp``.

    L. A. Feldkamp, L. C. Davis and J. W. Kress, "Practical cone-beam algorithm",
    J. Opt. Soc. Am. A 1 (1984). doi:10.1364/JOSAA.1.000612
    """
    back = partial(ConeBackprojector, kernels=kernels)
    return reconstruction(geometry, window, back, truncation, water_density)
