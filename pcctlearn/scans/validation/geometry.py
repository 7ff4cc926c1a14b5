"""Check the geometry of a scan file, the grid of the reconstruction and the grid of its maps."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from pcctlearn.reading.sizes import usable_bytes
from pcctlearn.scans.schema import GROUPS, MAPS_GRID, geometry_of, grid_of, maps_grid_of
from pcctlearn.scans.validation.attributes import PARAMETERS, parameter_faults

_ANGLES = "geometry/measured_angles_rad"


def group_faults(items: Mapping[str, Any]) -> Iterator[str]:
    """Report datasets and named types stored under the name of a group."""
    for name in GROUPS:
        if items[name] is not None and not isinstance(items[name], h5py.Group):
            kind = "a dataset" if isinstance(items[name], h5py.Dataset) else "a named data type"
            yield f"{name} must be a group, got {kind}: store its members in a group"


def geometry_faults(
    items: Mapping[str, Any], arrays: Mapping[str, h5py.Dataset], sizes_agree: bool
) -> Iterator[str]:
    """Faults of the attributes; if there are none, of the geometry and the grid.

    Args:
        items: groups and datasets of the file.
        arrays: the datasets that can be read.
        sizes_agree: whether the sizes of all arrays agree, so that the geometry can be built.
    """
    faults = [
        fault
        for group in PARAMETERS
        if isinstance(items[group], h5py.Group)
        for fault in parameter_faults(group, items[group].attrs)
    ]
    if items["geometry"] is None:
        faults.append(
            "the group geometry is missing: add it, with the attribute beam and the parameters of "
            "ConeBeam, FanBeam or ParallelBeam"
        )
    yield from faults
    groups = [items[group] for group in PARAMETERS if items[group] is not None]
    angles_readable = _ANGLES in arrays or items[_ANGLES] is None
    sound = not faults and all(isinstance(group, h5py.Group) for group in groups)
    if not (sound and sizes_agree and "counts" in arrays and angles_readable):
        return
    n_voxels = 0.0
    if (volume := items["geometry/volume"]) is not None:
        n_voxels = math.prod(float(np.asarray(volume.attrs[f"n_{axis}"]).item()) for axis in "zyx")
    if 4 * n_voxels >= usable_bytes():
        yield (
            f"geometry/volume has {n_voxels:.3g} voxels, more than the free memory holds: lower "
            "n_z, n_y and n_x, and enlarge voxel_cm"
        )
        return
    try:
        grid_of(items["geometry"], geometry_of(items["geometry"]))
    except ValueError as error:
        yield f"geometry: {error}"


def maps_grid_faults(items: Mapping[str, Any], arrays: Mapping[str, h5py.Dataset]) -> Iterator[str]:
    """A sentence if the maps have no grid, half a grid or an impossible one."""
    if "maps" not in arrays:
        return
    given = MAPS_GRID & set(arrays["maps"].attrs)
    if not given and items["geometry/volume"] is None:
        yield "the grid of maps is unknown: add geometry/volume, or voxel_cm and center_cm of maps"
    elif len(given) == 1:
        yield "maps have one of the attributes voxel_cm and center_cm: give both (z, y, x), or none"
    else:
        try:
            maps_grid_of(arrays["maps"])
        except ValueError as error:
            yield f"the grid of maps: {error}"
