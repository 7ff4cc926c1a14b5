"""Rays of a scan through a known phantom, and the pixels that a calibration can use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.phantom_overlap import require_overlap
from pcctlearn.calibration.plate_counts import PlateModel, plate_model
from pcctlearn.calibration.typical_counts import require_nested
from pcctlearn.calibration.usable import unusable, with_empty_bins
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.scan import SHADOW_G_CM2
from pcctlearn.scans.dead_pixels import any_of, dead_pixels, require_all_views
from pcctlearn.scans.record import ScanRecord
from pcctlearn.scans.validation.pixels import noise_free

_RISES, _NOISE = 1.02, 5.0  # of counts behind the phantom over those in air; standard deviations


@dataclass(frozen=True)
class PhantomRays:
    """Counts above thresholds of all pixels, exposure 0 being air and the others the views.

    Args:
        counts: (pixel, exposure, threshold).
        area_g_cm2: of the materials of the scan.
        flags: {kind: pixels that cannot be used}.
        model: expected counts; it has no plates.
        air: the first exposure.
    """

    counts: Float[Tensor, "pixel exposure threshold"]
    area_g_cm2: Float[Tensor, "exposure pixel material"]
    flags: dict[str, Bool[Tensor, "pixel"]]
    model: PlateModel
    air: CalibrationSet

    @property
    def good(self) -> Bool[Tensor, "pixel"]:
        """Pixels without a flag."""
        return ~any_of(self.flags)

    @staticmethod
    def named(exposure: int) -> str:
        """What was in the beam."""
        return f"the phantom in view {exposure - 1}" if exposure else "air"


def phantom_rays(
    scan: ScanRecord, nominal: SpectralModel, skew: Sequence[str], n_fixed: Literal[0, 1] = 1
) -> PhantomRays:
    """The rays of a scan.

    Args:
        scan: its counts, air, and the known line integrals; all views have the same exposure.
        nominal: the scanner with nominal thresholds; its materials are those of the line integrals.
        skew: materials of the skew.
        n_fixed: thresholds that are nominal by definition.

    Raises:
        ValueError: the scan does not fit the scanner, or no pixel sees the phantom.
    """
    nominal.require_materials(scan.materials)
    edges = scan.thresholds_keV
    if edges.ndim != 1:
        raise ValueError("thresholds_keV must be the nominal ones, the same for all pixels")
    if len(edges) - 1 < len(scan.materials):
        raise ValueError(
            f"{len(edges) - 1} thresholds do not determine {len(scan.materials)} materials: "
            "scan with more thresholds"
        )
    bins, air = scan.at("counts"), scan.air
    require_all_views(bins)
    counts = above_from_bins(
        torch.cat([air[:, None], bins], 1).double().flatten(2).movedim(0, -1)
    ).movedim(0, 1)
    area = scan.at("line_integrals").double().flatten(2).movedim(0, -1)
    area = torch.cat([torch.zeros_like(area[:1]), area])
    _require_rates(counts, edges[:-1].tolist())
    in_air = CalibrationSet(
        counts[:, :1].movedim(1, 0).unflatten(1, air.shape[1:]),
        torch.zeros(1, 1, dtype=torch.float64),
        ("water",),
        edges[:-1].double(),
        noise_free=noise_free(bins.numpy(), air.numpy()),
    )
    model = plate_model(in_air, nominal, skew)
    kinds = dead_pixels(bins, air)
    flags = {kind: dead.flatten() for kind, dead in kinds.items()}
    # a pixel needs as many shadowed views as it has unknowns
    shadowed = (area.sum(-1) > SHADOW_G_CM2).sum(0)
    n_unknowns = 1 + len(skew) + len(edges) - 1 - n_fixed
    flags["beside the phantom"] = ~any_of(flags) & (shadowed < n_unknowns)
    if any_of(flags).all():
        raise ValueError(
            f"no pixel sees the phantom in {n_unknowns} views or more: check line_integrals, "
            "and that the phantom lies within the field of view"
        )
    expected = _expected(area, nominal).movedim(0, 1)
    require_overlap(counts, expected, ~any_of(kinds).flatten(), bins.shape[1:])
    free = ~any_of(flags)
    flags = unusable(counts / expected, flags)
    if int((~any_of(flags)).sum()) < 0.5 * int(free.sum()):
        raise ValueError(
            "in most pixels the counts behind the phantom differ more than fourfold from those "
            "that its line integrals let expect, relative to other pixels or views: store "
            f"line_integrals in g/cm², in the order of materials ({', '.join(scan.materials)})"
        )
    require_nested(counts[~any_of(flags), :1], model, in_air)
    flags = with_empty_bins(counts, flags)
    return PhantomRays(counts, area, flags, model, in_air)


def _require_rates(above: Float[Tensor, "pixel exposure threshold"], keV: Sequence[float]) -> None:
    """Raise ValueError if the median pixel counts more behind the phantom than in air."""
    share = (above[:, 1:] / above[:, :1]).amax(1).nanmedian(0).values
    for j, edge in enumerate(keV):
        noise = _NOISE * max(1.0, float(above[:, 0, j].nanmedian())) ** -0.5
        if float(share[j]) > _RISES + noise:
            raise ValueError(
                f"the median pixel counts {100 * float(share[j] - 1):.2g} % more above "
                f"{edge:g} keV behind the phantom than in air: rates in air lie beyond "
                "the greatest rate of the counters, or air has another exposure; scan with a lower "
                "tube current, and give air the counting time of a view"
            )


@torch.no_grad()
def _expected(
    area: Float[Tensor, "exposure pixel material"], nominal: SpectralModel
) -> Float[Tensor, "exposure pixel threshold"]:
    """Counts of nominal pixels above the thresholds."""
    spectra = nominal.spectra().double()
    table = nominal.attenuation.double()
    views = [expected_counts(view, spectra, table) for view in area]
    return above_from_bins(torch.stack(views))
