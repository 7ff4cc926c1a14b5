"""The protocol of scatter corrections: estimate, fit, and settings for checkpoints."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.reading.targets import locate
from pcctlearn.scan import Scan
from pcctlearn.shapes import Counts
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.geometry.cone import ConeBeam

_PACKAGE = "pcctlearn."  # the only package whose classes a checkpoint may name


class ScatterCorrection(nn.Module):
    """Estimates the scattered fraction of the counts of one scanner.

    A constructor takes the ``geometry`` and the ``model`` of the scanner, then plain settings
    (numbers, strings, lists, mappings). It passes the settings that rebuild it to this constructor.
    Learned and fitted numbers are parameters and buffers. Buffers that follow from the scanner,
    such as air, are registered with ``persistent=False`` and are not part of a checkpoint.

    ``title`` is the name in summaries. ``needs_scans`` is True if it cannot be used before ``fit``.
    """

    title = "A scatter correction"
    needs_scans = False

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = settings

    def forward(self, counts: Counts) -> Counts:
        """Scattered fraction, in [0, 1], of counts in photons."""
        raise NotImplementedError

    @property
    def learns(self) -> bool:
        """Whether it has parameters that a gradient can fit."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def fit(
        self, scans: Sequence[Scan], fit_by_gradient: Callable[[], dict[str, float]]
    ) -> dict[str, float]:
        """Fit the correction to scans, and return numbers for the table of results.

        By default ``fit_by_gradient`` trains the parameters, if there are any. A correction with
        a closed form overrides this method.

        Args:
            scans: scans of known scatter_fraction, each a batch of one.
            fit_by_gradient: trains the parameters through the chain with the loss of the study.
        """
        return fit_by_gradient() if self.learns else {}

    def spec(self) -> dict[str, Any]:
        """Name of the class and settings, from which ``rebuilt`` builds the correction again."""
        return {"_target_": _path_of(type(self)), **self._settings}


def rebuilt(
    spec: Mapping[str, Any], geometry: ConeBeam, model: SpectralModel, chosen: Any = None
) -> ScatterCorrection:
    """The correction that ``spec`` describes, for this scanner, before its weights are loaded.

    Args:
        spec: result of ``ScatterCorrection.spec``.
        geometry, model: the scanner.
        chosen: a class outside this package, or a partial call of it, that ``spec`` may name.

    Raises:
        ValueError: ``_target_`` is neither a scatter correction of this package nor ``chosen``.
        TypeError: a setting that its constructor does not accept.
    """
    settings = dict(spec)
    name, kind = settings.pop("_target_", None), getattr(chosen, "func", chosen)
    build: Any
    if inspect.isclass(kind) and name == _path_of(kind):
        build = kind
    elif isinstance(name, str) and name.startswith(_PACKAGE):
        build = locate(name)
    else:
        raise ValueError(f"_target_ is {str(name)[:60]!r}, not a class of {_PACKAGE[:-1]}")
    if ScatterCorrection not in getattr(build, "__mro__", ()):
        raise ValueError(f"{name} is not a scatter correction")
    return build(geometry, model, **settings)


def require_cone(geometry: Geometry) -> ConeBeam:
    """The geometry, if it is a cone beam.

    Raises:
        ValueError: it is a fan or a parallel beam, whose scatter this package does not simulate.
    """
    if not isinstance(geometry, ConeBeam):
        raise ValueError(
            f"scatter corrections are for cone beams, got {type(geometry).__name__}: evaluate such "
            "scans with scatter=none, and train with scans of a cone beam (tomography=cone_head)"
        )
    return geometry


def _path_of(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def fraction_of(ratio: Tensor) -> Tensor:
    """x up to 0.5 and 1 − 1/(4 x) beyond: continuously differentiable, and below one."""
    return torch.where(ratio <= 0.5, ratio, 1 - 0.25 / ratio.clamp(min=0.5))
