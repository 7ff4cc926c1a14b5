"""Segment the patient in a CT, without the table and other objects in the field of view."""

from dataclasses import dataclass
from math import inf, pi

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from pcctlearn.units import AIR_HU

SKIN_HU = -300.0
# Shares are relative to the mass of the largest piece. Both thighs weigh the same; an arm beside
# the chest weighs 6 to 12 % of it and is almost as long; a bottle or a cushion is short.
_LEAST_SHARE = 0.10
_LEAST_LIMB_SHARE, _LEAST_LIMB_LENGTH = 0.03, 0.5
# Area of a cross-section over that of its largest inscribed circle: 1 for a disc, 2 for a chest
# with arms, 10 or more for a table of 45 × 5 cm.
_MOST_FLATNESS = 5.0
_REPORTED_SHARE = 0.01
_N_MEASURED = 16  # slices of a piece whose flatness is measured


@dataclass(frozen=True)
class Body:
    """Voxels of the patient, and the pieces that were left out.

    left_out: mass relative to the patient of each piece outside ``mask``, if 1 % or more.
    """

    mask: Bool[Tensor, "z y x"]
    left_out: tuple[float, ...]


@dataclass(frozen=True)
class _Piece:
    """One connected region in its bounding box, with holes filled slice by slice."""

    box: tuple[slice, slice, slice]
    filled: np.ndarray
    mass: float
    flatness: float


def body_mask(
    hounsfield: Float[Tensor, "y x"], spacing_cm: tuple[float, float]
) -> Bool[Tensor, "y x"]:
    """Mask of the patient in one slice, by ``find_body``."""
    return find_body(hounsfield[None], (inf, *spacing_cm)).mask[0]


def find_body(hounsfield: Float[Tensor, "z y x"], voxel_cm: tuple[float, float, float]) -> Body:
    """Mask of the patient: large compact pieces after an opening of 0.5 cm, with holes filled.

    A piece is a region above −300 HU, connected in 3-D. The heaviest compact piece is kept, and
    with it compact pieces of at least 10 % of its mass, or 3 % if they are at least half as long:
    the other leg, the arms beside a chest. A piece is compact if the area of its cross-sections is
    less than five times that of their largest inscribed circles; a table is not.

    Raises ValueError if nothing is above −300 HU.
    """
    steps = max(1, round(0.5 / max(voxel_cm[1:])))
    in_plane = ndimage.generate_binary_structure(2, 1)[
        None
    ]  # not across slices, which may be thick
    labels, n_pieces = ndimage.label(
        ndimage.binary_opening(hounsfield.numpy() > SKIN_HU, in_plane, iterations=steps)
    )
    if n_pieces == 0:
        where = "slice" if len(hounsfield) == 1 else "volume"
        raise ValueError(f"no body in this {where}: nothing above {SKIN_HU:g} HU; choose another")
    sizes = np.bincount(labels.ravel())[1:]
    least = (
        _REPORTED_SHARE / 3 * sizes.max()
    )  # these sizes do not include lungs, which are filled later
    pieces = [
        _piece(labels[box] == label, hounsfield[box].numpy(), box, voxel_cm[1:])
        for label, box in enumerate(ndimage.find_objects(labels), 1)
        if sizes[label - 1] >= least
    ]
    compact = [piece for piece in pieces if piece.flatness <= _MOST_FLATNESS] or pieces
    largest = max(compact, key=lambda piece: piece.mass)
    kept = [piece for piece in compact if _belongs(piece, largest)]
    mask = np.zeros(labels.shape, dtype=bool)
    for piece in kept:
        mask[piece.box] |= piece.filled
    mass = sum(piece.mass for piece in kept)
    shares = (piece.mass / mass for piece in pieces if piece not in kept)
    left_out = tuple(share for share in shares if share >= _REPORTED_SHARE)
    return Body(torch.from_numpy(mask), left_out)


def _piece(
    region: np.ndarray,
    hounsfield: np.ndarray,
    box: tuple[slice, slice, slice],
    pixel_cm: tuple[float, float],
) -> _Piece:
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in region])
    density = np.maximum(hounsfield, AIR_HU) - AIR_HU
    mass = float(density.sum(where=filled, dtype=np.float64))
    return _Piece(box, filled, mass, _flatness(filled, pixel_cm))


def _flatness(filled: np.ndarray, pixel_cm: tuple[float, float]) -> float:
    """Area of the cross-sections over the area of their largest inscribed circles."""
    planes = filled[:: -(-len(filled) // _N_MEASURED)]
    depths_cm = [
        ndimage.distance_transform_edt(np.pad(plane, 1), sampling=pixel_cm).max()
        for plane in planes
    ]
    circles_cm2 = pi * float(np.square(depths_cm).sum())
    return float(planes.sum()) * pixel_cm[0] * pixel_cm[1] / circles_cm2


def _belongs(piece: _Piece, largest: _Piece) -> bool:
    share, length = piece.mass / largest.mass, len(piece.filled) / len(largest.filled)
    return share >= _LEAST_SHARE or (share >= _LEAST_LIMB_SHARE and length >= _LEAST_LIMB_LENGTH)
