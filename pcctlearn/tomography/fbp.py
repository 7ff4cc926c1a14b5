"""Filtered back-projection, parallel and fan beam, as one linear operator."""

import torch

from pcctlearn.tomography.filters import RampFilter
from pcctlearn.tomography.geometry import FlatBeam
from pcctlearn.tomography.linear_operator import Diagonal, LinearOperator
from pcctlearn.tomography.sparse_projector import Backprojector
from pcctlearn.tomography.truncation import AnyBeam, EdgeExtension, widened
from pcctlearn.tomography.weights import cosine_weights, redundancy_weights


def fbp(geometry: FlatBeam, window: str = "ramp", max_matrix_bytes: float = 2e9) -> LinearOperator:
    """Sinogram (view, column) in operand · cm to image (y, x) in operand.

    f(p) = ∫ (q ∗ h)(θ, u(p)) / depth(p)² dθ, with q = w cos γ · line integrals, h the ramp on the
    detector scaled down to the axis, and w the redundancy weights. For a parallel beam depth and
    cos γ are one.

    A. C. Kak and M. Slaney, "Principles of Computerized Tomographic Imaging" (1988),
    sections 3.3 and 3.4.2. doi:10.1137/1.9780898719277
    """
    wide, filtered = filtering(geometry, window)
    return Backprojector(wide, max_matrix_bytes) @ filtered


def filtering(geometry: AnyBeam, window: str) -> tuple[AnyBeam, LinearOperator]:
    """Sinogram to what is back-projected, and the beam along which that is done.

    Weights, then the ramp along every detector row. Where an edge of the detector cuts through the
    image, rows are extended to where the image's shadow ends, as if the detector were that wide.
    """
    dtype, shape = torch.get_default_dtype(), geometry.shape
    redundancy = torch.from_numpy(redundancy_weights(geometry)).to(dtype)
    redundancy = redundancy.reshape(geometry.n_views, *(1,) * (len(shape) - 2), -1)
    cosine = torch.from_numpy(cosine_weights(geometry)).to(dtype)
    weights = Diagonal(cosine, shape) @ Diagonal(redundancy, shape)
    wide, n_before, n_after = widened(geometry)
    pixel_at_axis_cm = geometry.column_cm / geometry.magnification
    ramp = RampFilter(wide.shape, pixel_at_axis_cm, window)
    if not n_before and not n_after:
        return wide, ramp @ weights
    return wide, ramp @ EdgeExtension(shape, n_before, n_after) @ weights
