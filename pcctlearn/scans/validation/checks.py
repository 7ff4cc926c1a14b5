"""All checks of a scan file, in the order in which they build on one another."""

from collections.abc import Collection, Mapping

import h5py
import numpy as np

from pcctlearn.patients.patient_frame import frame_faults
from pcctlearn.scans.counted import InBins, Stored
from pcctlearn.scans.dead_pixels import spread_views
from pcctlearn.scans.schema import ARRAYS, GROUPS, MEASURED, counted, geometry_of
from pcctlearn.scans.storage import items_in
from pcctlearn.scans.validation.air import Findings
from pcctlearn.scans.validation.arrays import (
    array_faults,
    material_faults,
    misspelt_names,
    unit_faults,
)
from pcctlearn.scans.validation.attributes import (
    beam_faults,
    counted_faults,
    root_faults,
    version_faults,
)
from pcctlearn.scans.validation.counts import compared_counts, exposure_faults
from pcctlearn.scans.validation.geometry import (
    geometry_faults,
    group_faults,
    maps_grid_faults,
)
from pcctlearn.scans.validation.lengths import attenuation_doubts, length_doubts
from pcctlearn.scans.validation.mixed import mixed_faults
from pcctlearn.scans.validation.nested import nested_findings
from pcctlearn.scans.validation.sizes import size_faults
from pcctlearn.scans.validation.values import value_faults
from pcctlearn.tomography.geometry.planar import ParallelBeam

_FEW_VIEWS = 16  # in which the attenuation of the object is estimated


def findings_in(file: h5py.File, checked: Collection[str] = tuple(ARRAYS)) -> Findings:
    """Faults of a scan file, and doubts about a file without faults, one sentence each.

    A fault names the dataset or attribute, what is wrong with it, and the remedy.

    Args:
        file: open for reading.
        checked: arrays whose values are checked; the others are checked for name, axes and unit.
    """
    if newer := list(version_faults(file.attrs)):
        return Findings(newer, [])
    items, foreign_links = items_in(file, [*GROUPS, *ARRAYS])
    if foreign_links:
        return Findings(foreign_links, [])
    geometry = items["geometry"]
    described = geometry.attrs if isinstance(geometry, h5py.Group) else None
    faults = [*root_faults(file.attrs), *counted_faults(file.attrs)]
    wrong_beam = [] if described is None else list(beam_faults(file.attrs, described))
    faults += wrong_beam
    faults += group_faults(items)
    readable: dict[str, h5py.Dataset] = {}
    for name, array in ARRAYS.items():
        wrong = list(array_faults(name, array, items))
        faults += wrong
        if items[name] is not None and not wrong:
            readable[name] = items[name]
    faults += misspelt_names(file, ARRAYS)
    wrong_sizes = list(size_faults(items, readable))
    faults += [sentence for _, sentence in wrong_sizes]
    for name, _ in wrong_sizes:
        readable.pop(name, None)
    faults += material_faults(readable)
    if not wrong_beam:  # else its parameters are unknown
        faults += geometry_faults(items, readable, sizes_agree=not wrong_sizes)
    faults += maps_grid_faults(items, readable)
    valid: dict[str, h5py.Dataset] = {}
    for name, item in readable.items():
        wrong = list(unit_faults(name, ARRAYS[name], item))
        if name in checked:
            wrong += value_faults(name, ARRAYS[name], item)
            if not wrong:
                valid[name] = item
        faults += wrong
    if "scanner_to_patient" in valid:
        faults += frame_faults(valid["scanner_to_patient"][()].astype(float))
    measured = _measured_findings(
        valid, counted(file.attrs), "spectrum/energies_keV" in checked, "view_s" in file.attrs
    )
    if faults or measured.faults:
        return Findings([*faults, *measured.faults], [])
    scanner = geometry_of(file["geometry"])
    lengths = length_doubts(scanner)
    if not lengths and isinstance(scanner, ParallelBeam) and set(MEASURED) <= valid.keys():
        above = counted(file.attrs) == "above"
        n, air = (InBins(valid[k]) if above else valid[k] for k in ("counts", "air"))
        views = spread_views(n.shape[1], _FEW_VIEWS)
        sample = (np.asarray(part, np.float64) for part in (n[:, views], air[()]))
        lengths = attenuation_doubts(scanner, *sample)
    return Findings([], [*measured.doubts, *lengths])


def _measured_findings(
    valid: Mapping[str, h5py.Dataset], counted: str, with_spectrum: bool, loses: bool
) -> Findings:
    """Faults and doubts of the values of counts and air, compared with all that is known."""
    if "exposure" in valid and (wrong := list(exposure_faults(valid["exposure"][()]))):
        return Findings(wrong, [])
    measured = [name for name in MEASURED if name in valid]
    if len(measured) == len(MEASURED):
        mixed = list(mixed_faults(valid["counts"], valid["air"], counted))
        if mixed:
            return Findings(mixed, [])
    nested, arrays = Findings([], []), dict[str, Stored](valid)
    for name in measured if counted == "above" else ():
        found = nested_findings(name, valid[name])
        nested.faults.extend(found.faults)
        nested.doubts.extend(found.doubts)
        arrays[name] = InBins(valid[name])
    compared = compared_counts(arrays, counted, loses)
    # doubts about counts need the spectral model, which is only read with the spectrum
    doubts = compared.doubts if with_spectrum else []
    # saturated counters make counts increase with the threshold, so that they are named first
    return Findings(compared.faults or nested.faults, [*nested.doubts, *doubts])
