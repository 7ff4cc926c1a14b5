"""Checks of the inputs of a decomposition, and their conversion to one precision."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcctlearn.physics.likelihood import negligible
from pcctlearn.shapes import Attenuation, RayCounts, Spectra
from pcctlearn.solvers.quadratic import Bounds

_ROUNDING = 1e-6  # relative: a difference of two float32 responses may be negative


def in_one_precision(
    counts: Tensor, spectra: Tensor, attenuation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs in the widest of their precisions, float32 or more.

    Raises:
        TypeError: spectra or attenuation in half precision; counts may be, or be integers.
    """
    for name, values in (("spectra", spectra), ("attenuation", attenuation)):
        if values.dtype in (torch.float16, torch.bfloat16):
            raise TypeError(
                f"{str(values.dtype).removeprefix('torch.')} is too coarse for {name} of a "
                f"decomposition: pass {name} in float32 or float64"
            )
    dtype = torch.promote_types(spectra.dtype, attenuation.dtype)
    if counts.is_floating_point():
        dtype = torch.promote_types(dtype, counts.dtype)
    return counts.to(dtype), spectra.to(dtype), attenuation.to(dtype)


def check(counts: RayCounts, spectra: Spectra, attenuation: Attenuation) -> None:
    """Raise ValueError for axes that do not match and for impossible values."""
    if counts.shape[-1] != spectra.shape[-2]:
        raise ValueError(
            f"counts have {counts.shape[-1]} bins, spectra {spectra.shape[-2]}: "
            "give one threshold more than the counts have bins"
        )
    if spectra.shape[-1] != attenuation.shape[-1]:
        raise ValueError(
            f"spectra have {spectra.shape[-1]} energies, attenuation {attenuation.shape[-1]}: "
            "put both on one grid"
        )
    if len(attenuation) > counts.shape[-1]:
        raise ValueError(
            f"{len(attenuation)} materials need as many bins, got {counts.shape[-1]}: "
            "use fewer materials or more thresholds"
        )
    n = counts.detach()
    least, most = n.aminmax() if n.numel() else (n.sum(), n.sum())
    if not (bool(least >= 0) and bool(most.isfinite())):  # false for NaN
        wrong = n[~(n.isfinite() & (n >= 0))]
        raise ValueError(
            f"counts must be finite and not negative, but {len(wrong)} of {counts.numel()} are "
            f"not (first: {wrong[0].item():g}): mask or repair dead pixels before the decomposition"
        )
    _check_spectra(spectra.detach())
    if not bool(attenuation.isfinite().all()):
        raise ValueError(
            "attenuation must be finite: check the tables of the basis materials at "
            "the energies of the spectra"
        )


def _check_spectra(spectra: Tensor) -> None:
    wrong = ~spectra.isfinite()
    if bool(wrong.any()):
        raise ValueError(
            f"spectra must be finite: {_first(wrong, spectra)}; check fluence, response and "
            "thresholds"
        )
    wrong = spectra < -_ROUNDING * spectra.amax((-2, -1), keepdim=True).clamp(min=0)
    if bool(wrong.any()):
        raise ValueError(
            f"spectra must not be negative: {_first(wrong, spectra)}; check that the thresholds "
            "increase and that fluence and response are not negative"
        )
    empty = ~(spectra > negligible(spectra.dtype)).any(-1)
    if bool(empty.any()):
        *pixel, b = empty.nonzero()[0].tolist()
        where = f"bin {b} of pixel {_index(pixel)}" if pixel else f"bin {b}"
        raise ValueError(
            f"the spectrum of {where} is zero at every energy, so it counts no photons: remove the "
            "bin from counts and spectra, or move its thresholds below the tube voltage"
        )


def _first(wrong: Tensor, spectra: Tensor) -> str:
    *pixel, b, energy = wrong.nonzero()[0].tolist()
    of_pixel = f" of pixel {_index(pixel)}" if pixel else ""
    value = spectra[(*pixel, b, energy)].item()
    return (
        f"{int(wrong.sum())} of {wrong.numel()} values are wrong, the first is {value:g} in bin {b}"
        f"{of_pixel}"
    )


def _index(pixel: list[int]) -> int | tuple[int, ...]:
    return pixel[0] if len(pixel) == 1 else tuple(pixel)


def box(bounds: Bounds | Sequence[Sequence[float]] | None, attenuation: Tensor) -> Bounds | None:
    """The bounds as tensors.

    Raises:
        ValueError: not one increasing pair for each material.
    """
    if bounds is None:
        return None
    lower, upper = (
        torch.as_tensor(side, dtype=attenuation.dtype, device=attenuation.device) for side in bounds
    )
    shape = (len(attenuation),)
    if lower.shape != shape or upper.shape != shape or not (lower < upper).all():
        raise ValueError(
            f"bounds must be (lower, upper) with {len(attenuation)} increasing pairs, got "
            f"{lower.tolist()} and {upper.tolist()}"
        )
    return Bounds(lower, upper)
