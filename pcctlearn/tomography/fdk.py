"""The reconstruction of Feldkamp, Davis and Kress, cone beam, as one linear operator."""

from pcctlearn.tomography.cone_geometry import ConeBeam
from pcctlearn.tomography.cone_projector import ConeBackprojector
from pcctlearn.tomography.fbp import filtering
from pcctlearn.tomography.linear_operator import LinearOperator


def fdk(geometry: ConeBeam, window: str = "ramp", kernels: str = "auto") -> LinearOperator:
    """Sinogram (view, row, column) in operand · cm to volume (z, y, x) in operand.

    f(p) = ∫ (q ∗ h)(θ, v(p), u(p)) / depth(p)² dθ, with q = w D / √(D² + u² + v²) · line
    integrals, h the ramp along rows, scaled down to the axis, and w the redundancy weights. It is
    exact in the plane of the orbit; away from it densities fall off with the cone angle.
    ``kernels`` as in ``ConeBackprojector``.

    L. A. Feldkamp, L. C. Davis and J. W. Kress, "Practical cone-beam algorithm",
    J. Opt. Soc. Am. A 1 (1984). doi:10.1364/JOSAA.1.000612
    """
    wide, filtered = filtering(geometry, window)
    return ConeBackprojector(wide, kernels) @ filtered
