"""Filtered back-projection, parallel and fan beam, as one linear operator."""

import torch

from pcctlearn.tomography.filters import RampFilter
from pcctlearn.tomography.geometry import Beam
from pcctlearn.tomography.linear_operator import Diagonal, LinearOperator
from pcctlearn.tomography.sparse_projector import Backprojector
from pcctlearn.tomography.weights import cosine_weights, redundancy_weights


def fbp(geometry: Beam, window: str = "ramp", max_matrix_bytes: float = 2e9) -> LinearOperator:
    """Sinogram (view, column) in operand · cm to image (y, x) in operand.

    f(p) = ∫ (q ∗ h)(θ, u(p)) / depth(p)² dθ, with q = w cos γ · line integrals, h the ramp on the
    detector scaled down to the axis, and w the redundancy weights. For a parallel beam depth and
    cos γ are one.

    A. C. Kak and M. Slaney, "Principles of Computerized Tomographic Imaging" (1988),
    sections 3.3 and 3.4.2. doi:10.1137/1.9780898719277
    """
    weights = torch.from_numpy(redundancy_weights(geometry) * cosine_weights(geometry))
    pixel_at_axis_cm = geometry.pixel_cm / geometry.magnification
    ramp = RampFilter(geometry.n_views, geometry.n_columns, pixel_at_axis_cm, window)
    backprojector = Backprojector(geometry, max_matrix_bytes)
    return backprojector @ ramp @ Diagonal(weights.to(torch.get_default_dtype()))
