"""Differentiable photon-counting CT: from counts to material maps, and gradients back.

    import pcctlearn as pc

    tube = pc.Spectrum.tungsten(120, filtration_cm={"aluminium": 0.25}, photons_per_pixel=1e5)
    model = pc.SpectralModel.from_parts(
        tube,
        pc.physics.response.silicon(),
        pc.Thresholds([15, 33, 45, 59, 120]),
        ["water", "iodine"],
    )
    A, converged = pc.decompose(counts, model.spectra(), model.attenuation)

The names below are imported on first use; more are in the packages ``pc.physics``,
``pc.tomography``, ``pc.solvers``, ``pc.decomposition``, ``pc.scatter``, ``pc.calibration``,
``pc.scans``, ``pc.patients``, ``pc.simulation``, ``pc.training`` and ``pc.testing``.
"""

from typing import TYPE_CHECKING

from pcctlearn.lazy import attach

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pcctlearn.chain import Chain as Chain
    from pcctlearn.decomposition.maximum_likelihood import (
        MaximumLikelihood as MaximumLikelihood,
    )
    from pcctlearn.decomposition.maximum_likelihood import (
        decompose as decompose,
    )
    from pcctlearn.physics.spectral_model import SpectralModel as SpectralModel
    from pcctlearn.physics.spectrum import Spectrum as Spectrum
    from pcctlearn.physics.thresholds import Thresholds as Thresholds
    from pcctlearn.scan import Scan as Scan
    from pcctlearn.scans.file import read_scan as read_scan
    from pcctlearn.scans.file import write_scan as write_scan
    from pcctlearn.tomography.fbp import fbp as fbp
    from pcctlearn.tomography.geometry.cone import ConeBeam as ConeBeam
    from pcctlearn.tomography.geometry.planar import FanBeam as FanBeam
    from pcctlearn.tomography.geometry.planar import ParallelBeam as ParallelBeam
    from pcctlearn.tomography.projector import projector as projector

_ROOMS = (
    "calibration",
    "chain",
    "decomposition",
    "losses",
    "metrics",
    "montecarlo",
    "patients",
    "phantoms",
    "physics",
    "scan",
    "scans",
    "scatter",
    "shapes",
    "simulation",
    "solvers",
    "testing",
    "tomography",
    "training",
    "units",
)
__getattr__, __dir__, _ = attach(
    __name__,
    {
        "scan": ["Scan"],
        "scans.file": ["read_scan", "write_scan"],
        "physics.spectral_model": ["SpectralModel"],
        "physics.spectrum": ["Spectrum"],
        "physics.thresholds": ["Thresholds"],
        "decomposition.maximum_likelihood": ["decompose", "MaximumLikelihood"],
        "tomography.geometry": ["ParallelBeam", "FanBeam", "ConeBeam"],
        "tomography.projector": ["projector"],
        "tomography.fbp": ["fbp"],
        "chain": ["Chain"],
    },
    _ROOMS,
)
__all__ = [  # noqa: RUF022  # by subject
    "Scan",
    "read_scan",
    "write_scan",
    "SpectralModel",
    "Spectrum",
    "Thresholds",
    "decompose",
    "MaximumLikelihood",
    "ParallelBeam",
    "FanBeam",
    "ConeBeam",
    "projector",
    "fbp",
    "Chain",
    "__version__",
]
