"""Errors of line integrals and images from the true object, where a scan file holds it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from pcctlearn.metrics.correction import BODY_HU
from pcctlearn.metrics.errors import ErrorTable, rms
from pcctlearn.phantoms.volume_average import averaged
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import SHADOW_G_CM2, Scan
from pcctlearn.scans.record import ScanRecord
from pcctlearn.tomography.grids import VolumeGrid
from pcctlearn.units import MG_ML

_EDGE_HU, _EDGE_VOXELS = 100.0, 2  # an edge, and the distance at which its blur is small
MEAN, RMS, PIXEL_BIAS = "mean", "rms", "pixel_bias"  # the methods of the table


def errors_from_truth(
    outcome: Scan, recorded: ScanRecord, image: MonoenergeticImages, materials: Sequence[str]
) -> ErrorTable:
    """Mean and root mean square of line integrals and images minus those of the true object.

    Rays count if they converged and cross the object, voxels if they lie in the object, all their
    lines are measured, and they are more than two voxels from edges of 100 HU in their slice, so
    that blur does not hide other errors. Line integrals and maps are compared in the basis of the
    file only, and images on the grid of ``outcome``, over whose voxels the true maps are averaged.

    The pixel bias is the root mean square over the pixels of the mean error over the views: such
    errors are rings in the images, while noise averages out over the views.

    Args:
        outcome: line integrals (1, material, view, row, column) and maps (1, material, z, y, x).
        recorded: the scan, with the grid of the maps of ``outcome``.
        image: monoenergetic images of ``outcome``.
        materials: the basis of ``outcome``.
    """
    table = ErrorTable()
    has_basis = recorded.materials == tuple(materials)
    if has_basis and recorded.line_integrals is not None:
        true_g_cm2 = recorded.line_integrals
        through = (true_g_cm2.sum(0) > SHADOW_G_CM2) & outcome.at("converged")[0]
        errors = outcome.at("line_integrals")[0] - true_g_cm2
        for name, error in zip(materials, errors, strict=True):
            key = f"projection_{name}_error_g_cm2"
            _add(table, key, error[through])
            table.add(PIXEL_BIAS, {key: rms(error.mean(0))})
    if recorded.maps is None or recorded.maps_grid is None:
        return table
    true_maps, is_inside = _on_grid(recorded.maps, recorded.maps_grid, recorded.grid)
    true_image = MonoenergeticImages(recorded.materials, image.energies_keV)
    true_HU = true_image.hounsfield(true_maps[None])[0]
    measured = torch.from_numpy(recorded.geometry.fully_measured(recorded.grid))
    body = (true_HU[0] > BODY_HU) & ~_is_near_edge(true_HU[0]) & measured & is_inside
    maps = outcome.at("maps")
    if has_basis:
        for name, error in zip(materials, maps[0] - true_maps, strict=True):
            _add(table, f"image_{name}_error_mg_mL", MG_ML * error[body])
    for energy, error in zip(image.energies_keV, image.hounsfield(maps)[0] - true_HU, strict=True):
        _add(table, f"vmi{energy:g}_error_HU", error[body])
    return table


def _on_grid(maps: Tensor, source: VolumeGrid, target: VolumeGrid) -> tuple[Tensor, Tensor]:
    """Maps averaged over the voxels of another grid, and the voxels inside the source (z, y, x)."""
    if source == target:
        return maps, torch.ones(target.shape, dtype=torch.bool)
    whole = averaged(torch.ones(source.shape), source, target)
    return averaged(maps, source, target), whole > 1 - 1e-5


def _is_near_edge(image_HU: Tensor) -> Tensor:
    """Voxels (z, y, x) within whose distance in the slice the image varies by _EDGE_HU or more."""
    highest, lowest = (
        sign * max_pool2d(sign * image_HU, 2 * _EDGE_VOXELS + 1, 1, _EDGE_VOXELS)
        for sign in (1, -1)
    )
    return highest - lowest >= _EDGE_HU


def _add(table: ErrorTable, key: str, errors: Tensor) -> None:
    if len(errors):  # the object may lie beside all rays or voxels
        table.add(MEAN, {key: errors.double().mean().item()})
        table.add(RMS, {key: rms(errors)})
