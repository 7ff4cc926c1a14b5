"""Filtered back-projection, parallel and fan beam, as one linear operator."""

from collections.abc import Callable
from functools import partial
from typing import Literal, overload

import torch

from pcctlearn.tomography.filters import RampFilter
from pcctlearn.tomography.geometry import Beam, FlatBeam
from pcctlearn.tomography.grids import FloatArray
from pcctlearn.tomography.linear_operator import Diagonal, LinearOperator
from pcctlearn.tomography.sparse_projector import Backprojector
from pcctlearn.tomography.truncation import (
    AnyBeam,
    EdgeExtension,
    WaterExtended,
    WaterExtension,
    widened,
)
from pcctlearn.tomography.weights import cosine_weights, extended_weights, redundancy_weights

TRUNCATIONS = ("water", "cosine")


@overload
def fbp(
    geometry: FlatBeam,
    window: str = ...,
    max_matrix_bytes: float = ...,
    *,
    truncation: Literal["cosine"],
) -> LinearOperator: ...
@overload
def fbp(
    geometry: FlatBeam,
    window: str = ...,
    max_matrix_bytes: float = ...,
    truncation: str = ...,
    water_density: float = ...,
) -> LinearOperator | WaterExtended: ...
def fbp(
    geometry: FlatBeam,
    window: str = "ramp",
    max_matrix_bytes: float = 2e9,
    truncation: str = "water",
    water_density: float = 1.0,
) -> LinearOperator | WaterExtended:
    """Sinogram (view, column) in operand · cm to image (y, x) in operand.

    f(p) = ∫ (q ∗ h)(θ, u(p)) / depth(p)² dθ, with q = w cos γ · line integrals, h the ramp on the
    detector scaled down to the axis, and w the redundancy weights. For a parallel beam depth and
    cos γ are one.

    ``truncation`` chooses how rows are continued where the detector cuts the image: "water" fits
    water cylinders (WaterExtension), which is not linear and has no transpose; "cosine" is linear
    (EdgeExtension) and less accurate. Without truncation both are the same linear operator.
    ``water_density`` is that of water in the operand's unit: 1 g/cm³, or its attenuation in 1/cm.

    A. C. Kak and M. Slaney, "Principles of Computerized Tomographic Imaging" (1988),
    sections 3.3 and 3.4.2. doi:10.1137/1.9780898719277
    """
    back = partial(Backprojector, max_matrix_bytes=max_matrix_bytes)
    return reconstruction(geometry, window, back, truncation, water_density)


def require_truncation(truncation: str) -> None:
    """Raise ValueError for a name that is not in ``TRUNCATIONS``."""
    if truncation not in TRUNCATIONS:
        accepted = ", ".join(TRUNCATIONS)
        raise ValueError(f"truncation must be one of {accepted}, got {truncation!r}")


def reconstruction(
    geometry: AnyBeam,
    window: str,
    back_projector: Callable[[AnyBeam], LinearOperator],
    truncation: str,
    water_density: float,
) -> LinearOperator | WaterExtended:
    """Weights, the ramp along every detector row, and back-projection.

    Where an edge of the detector cuts through the image, rows are extended to where the image's
    shadow ends, as if the detector were that wide.
    """
    require_truncation(truncation)
    wide, n_before, n_after = widened(geometry)
    filter_ = RampFilter(wide.shape, geometry.column_cm / geometry.magnification, window)
    redundancy = redundancy_weights(geometry)
    if not n_before and not n_after:
        return back_projector(wide) @ filter_ @ _weights(geometry, redundancy)
    if truncation == "cosine":
        extend = EdgeExtension(geometry.shape, n_before, n_after)
        return back_projector(wide) @ filter_ @ extend @ _weights(geometry, redundancy)
    redundancy = extended_weights(geometry, redundancy, n_before, n_after)
    reconstruct = back_projector(wide) @ filter_ @ _weights(wide, redundancy)
    fitted = WaterExtension(wide, n_before, n_after, water_density)
    return WaterExtended(reconstruct, fitted, geometry.n_columns)


def _weights(beam: Beam, redundancy: FloatArray) -> LinearOperator:
    """Obliquity times redundancy (view, column), for a sinogram of the beam's shape."""
    dtype, shape = torch.get_default_dtype(), beam.shape
    cosine = torch.from_numpy(cosine_weights(beam)).to(dtype)
    shares = torch.from_numpy(redundancy).to(dtype)
    shares = shares.reshape(beam.n_views, *(1,) * (len(shape) - 2), -1)
    return Diagonal(cosine, shape) @ Diagonal(shares, shape)
