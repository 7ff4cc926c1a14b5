"""Rays whose likelihood may have several minima, or none."""

from collections.abc import Iterable

import torch
from torch import Tensor

from pcctlearn.decomposition.pieces import Rays
from pcctlearn.physics.likelihood import poisson_likelihood
from pcctlearn.shapes import Attenuation, RayCounts, RayMask

_LEAST_PHOTONS = 0.5
# Half deviance per photon, above which a second minimum may be likelier. Two minima of one ray
# predict counts of different proportions, and the counts must fit both badly, at any number of
# photons: of a million rays of silicon and CdTe with a likelier second minimum none had less than
# 0.027 at the first, and only silicon less than 0.09.
GROSS_MISFIT = 0.02
_FEW_PHOTONS_OF_THREE = 3000.0  # minima of three materials lie close to one another
SAME_VALUE = 1e-9  # largest difference of the half deviance at the same minimum


def informative(counts: RayCounts) -> RayMask:
    """True where all bins together hold half a photon or more.

    Counts are whole numbers: a total below one half is a measurement of zero photons, whose
    likelihood has no finite minimum.
    """
    return counts.sum(-1) >= _LEAST_PHOTONS


def least_photons(attenuation: Attenuation) -> float:
    """Photons, with fewer of which a ray is searched twice, or is not solved."""
    return _FEW_PHOTONS_OF_THREE if len(attenuation) > 2 else _LEAST_PHOTONS


def ambiguous(rays: Rays, attenuation: Attenuation) -> Tensor:
    """True where the model at the start fits the counts badly, or photons are few for three
    materials; flat."""
    total = rays.counts.sum(-1).flatten()
    misfit, _ = half_deviance(rays.pieces(), attenuation)
    return (misfit > GROSS_MISFIT * total) | (total < least_photons(attenuation))


def half_deviance(pieces: Iterable[Rays], attenuation: Attenuation) -> tuple[Tensor, Tensor]:
    """Half the deviance at the start of the rays and its rounding error, flat."""
    values, roundings = [], []
    for n, S, x in pieces:
        assert x is not None
        likelihood = poisson_likelihood(x, n, S, attenuation, exact=False)
        values.append(likelihood.value.flatten())
        roundings.append(likelihood.rounding.flatten())
    return torch.cat(values), torch.cat(roundings)
