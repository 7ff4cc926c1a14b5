"""Compare counts with air, with primary and scatter, and with the spectral model of the file."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.response.table import Table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import Thresholds, above_from_bins
from pcctlearn.scans.counted import InBins, Stored, without_upper_limit
from pcctlearn.scans.dead_pixels import any_of, dead_pixels, spread_views
from pcctlearn.scans.validation.air import Findings, air_findings
from pcctlearn.scans.validation.saturation import saturation_faults

_MOST_VIEWS = 32  # in which counts are compared with air
_MOST_SUMMED_VIEWS = 16  # in which counts are compared with primary and scatter
_EXPOSURES = (0.1, 10.0)  # of a view over that of air; drifting tubes differ by far less
_RESPONSE = ("response/energies_keV", "response/deposited_keV", "response/response_per_keV")
_BEAM = ("spectrum/energies_keV", "spectrum/fluence", "thresholds_keV")


def compared_counts(
    arrays: Mapping[str, Stored], counted: str = "bins", loses: bool = False
) -> Findings:
    """Faults and doubts about counts and about the spectral model, from the arrays of a file.

    Args:
        arrays: datasets by name, counts and air in bins.
        counted: what the file says of counts and air, "bins" or "above" thresholds.
        loses: whether counters may have missed photons of the truth in their dead time.
    """
    model, model_faults = None, []
    try:
        model = _water_model(arrays, counted)
    except ValueError as error:
        model_faults = [f"spectrum, response and thresholds_keV do not fit together: {error}"]
    if not {"counts", "air"} <= arrays.keys():
        return Findings(model_faults, [])
    counts, air = arrays["counts"], arrays["air"]
    if wrong_quantity := list(_quantity_faults(counts, air)):
        return Findings([*wrong_quantity, *model_faults], [])
    faults = list(model_faults)
    if {"primary", "scatter"} <= arrays.keys():
        faults = [*_truth_faults(counts, arrays["primary"], arrays["scatter"], loses), *faults]
    if model_faults:
        return Findings(faults, [])
    open_beam = torch.from_numpy(air.astype("float32")[()])
    exposure = arrays["exposure"][()] if "exposure" in arrays else None
    found = count_findings(counts, open_beam, model, counted, exposure)
    return Findings([*faults, *found.faults], found.doubts)


def count_findings(
    counts: Stored,
    air: Tensor,
    model: SpectralModel | None,
    counted: str = "bins",
    exposure: np.ndarray | None = None,
) -> Findings:
    """Saturation faults, else those of ``air_findings``, in a sample of at most 32 views.

    Counters saturate, so that counts above thresholds are checked for it before they are bins, and
    before they are divided by the exposure of their view.
    """
    views = spread_views(counts.shape[1], _MOST_VIEWS)
    sample = torch.as_tensor(np.asarray(counts[:, views], np.float32))
    kinds = dead_pixels(sample, air)
    counters, air_counters, axis = sample, air, "bin"
    if isinstance(counts, InBins):
        counters, axis = (
            torch.as_tensor(np.asarray(counts.above[:, views], np.float32)),
            "threshold",
        )
        air_counters = above_from_bins(air, dim=0)
    varying = counters.masked_fill(kinds["stuck"], torch.nan)
    if saturated := list(saturation_faults(varying.numpy(), air_counters.numpy(), axis)):
        return Findings(saturated, [])
    dead = any_of(kinds)
    if exposure is not None:
        sample = sample / torch.as_tensor(exposure[views], dtype=torch.float32)[:, None, None]
    n, open_beam = (values.masked_fill(dead, torch.nan).numpy() for values in (sample, air))
    return air_findings(n, open_beam, model, counted)


def exposure_faults(exposure: np.ndarray) -> Iterator[str]:
    """An exposure that cannot be that of a view over that of the air."""
    low, high = _EXPOSURES
    if (wrong := ~((exposure > low) & (exposure < high))).any():
        view = int(wrong.argmax())
        yield (
            f"exposure is {exposure[view]:.4g} in view {view}: store the reading of the monitor in "
            "each view over that in the exposure of air, about 1"
        )


def _quantity_faults(counts: Stored, air: Stored) -> Iterator[str]:
    """Counts that must be transmissions or logarithms instead of photons."""
    n = _summed_views(counts)
    open_beam = np.broadcast_to(air[()][:, None], n.shape)
    known = (open_beam > 0) & ~np.isnan(n)
    n, open_beam = n[known], open_beam[known]
    if not n.size:
        return  # all pixels are dead
    if (open_beam == 1).all():
        yield "air is 1 everywhere: are counts transmissions? Store both in photons"
    elif n.max() <= 20 and n.max() < 1e-4 * open_beam.min() and (n % 1).any():
        yield (
            f"counts are at most {n.max():.3g} and not whole, air is {open_beam.min():.3g} at "
            "least: are they logarithms? Store counts in photons"
        )


def _truth_faults(counts: Stored, primary: Stored, scatter: Stored, loses: bool) -> Iterator[str]:
    """Primary and scatter whose sum differs from the counts by far more than noise."""
    measured, *parts = (
        float(_summed_views(item).sum(dtype=np.float64)) for item in (counts, primary, scatter)
    )
    expected = sum(parts)
    fewer = loses and measured < expected
    if abs(measured - expected) > 0.2 * expected + 10 * math.sqrt(expected) and not fewer:
        yield (
            f"counts sum to {measured:.4g} photons, primary and scatter to {expected:.4g} in the "
            "same views: store the expected photons of the same scan and exposure, scatter after "
            "grid_transmission"
        )


def _summed_views(item: Stored) -> np.ndarray:
    """Every n-th view, 16 at most."""
    return item[:, :: math.ceil(item.shape[1] / _MOST_SUMMED_VIEWS)]


def _water_model(arrays: Mapping[str, Stored], counted: str) -> SpectralModel | None:
    """Spectrum, response and median thresholds over the pixels; ``None`` if one is absent.

    The last bin of counts above thresholds has no upper limit.

    Raises:
        ValueError: they do not fit together.
    """

    def tensors(names: tuple[str, ...]) -> list[Tensor]:
        return [torch.from_numpy(arrays[name].astype("float64")[()]) for name in names]

    if not set(_RESPONSE) <= arrays.keys():
        return None
    response = Table(*tensors(_RESPONSE))
    if not set(_BEAM) <= arrays.keys():
        return None
    energies, fluence, edges = tensors(_BEAM)
    if counted == "above":
        edges = without_upper_limit(edges, energies, response.deposited_keV)
    pixels = edges.reshape(-1, edges.shape[-1])
    water = attenuation_table(["water"], energies)
    # if the lowest and the highest thresholds are possible, those of all pixels are
    extremes = Thresholds(torch.stack([pixels.amin(0), pixels.amax(0)]))
    SpectralModel(energies, fluence, response, extremes, water).air()
    typical = Thresholds(pixels.median(0).values)
    model = SpectralModel(energies, fluence, response, typical, water, ["water"])
    if not (model.air() > 0).all():
        raise ValueError(
            f"a bin between the thresholds {typical.edges_keV.tolist()} keV has no counts with "
            "this fluence: move the thresholds, or store the fluence in photons"
        )
    return model
