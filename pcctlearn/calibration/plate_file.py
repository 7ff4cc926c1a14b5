"""Plate files: counts behind known plates, spectrum and response (docs/plate_file.md)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.plate_counts import plate_model, require_within
from pcctlearn.calibration.saturated import with_saturated
from pcctlearn.calibration.stored import (
    Contents,
    FileSchema,
    read_stored,
    stored_faults,
    write_stored,
)
from pcctlearn.calibration.typical_counts import require_expected
from pcctlearn.calibration.usable import unusable
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.response.table import Table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import Thresholds, above_from_bins
from pcctlearn.scans.dead_pixels import any_of
from pcctlearn.scans.record import ResponseRecord, SpectrumRecord
from pcctlearn.scans.schema import ARRAYS as SCAN_ARRAYS
from pcctlearn.scans.schema import StoredArray

_MEASURED = ("infinite", "negative")  # NaN is a dead pixel
_MASK = StoredArray("row column | pixel", "1")
_GROUPS = {
    name: array._replace(required=True)
    for name, array in SCAN_ARRAYS.items()
    if name.startswith(("spectrum/", "response/"))
}

PLATES = FileSchema(
    title="pcctlearn plates",
    version=1,
    page="docs/plate_file.md",
    arrays={
        "counts": StoredArray(
            "exposure threshold row column | exposure threshold pixel",
            "photons",
            refused=_MEASURED,
            required=True,
        ),
        "plates_cm": StoredArray("material exposure", "cm", required=True),
        "thresholds_keV": StoredArray("threshold", "keV", required=True, increases=True),
        "exposure": StoredArray("exposure", "1"),
        "frames": StoredArray("exposure", "1"),
        "time_s": StoredArray("exposure", "s"),
        "dead": _MASK,
        "saturated": _MASK,
        "true_thresholds_keV": StoredArray(
            "row column threshold | pixel threshold", "keV", increases=True
        ),
        "skew_cm": StoredArray("filter row column | filter pixel", "cm", refused=("NaN",)),
        **_GROUPS,
    },
    names={"plates_cm": "materials", "skew_cm": "materials"},
    choices={"counted": ("above", "bins")},
    attributes={
        "name": str,
        "tube_kV": float,
        "noise_free": int,
        "seed": int,
        "config": str,
        "software": str,
    },
)
_FLAGS = ("dead", "saturated")


@dataclass(frozen=True)
class PlateRecord:
    """The contents of a plate file.

    ``frames`` is the number of frames that were added in each exposure, ``time_s`` their counting
    time, all frames of an exposure together. ``true_thresholds_keV`` and
    ``skew_cm``, the thickness of ``filter_materials`` in front of each pixel, are those of a
    simulated detector.
    """

    name: str
    plates: CalibrationSet
    spectrum: SpectrumRecord
    response: ResponseRecord
    frames: Float[Tensor, "exposure"] | None = None
    time_s: Float[Tensor, "exposure"] | None = None
    tube_kV: float | None = None
    true_thresholds_keV: Float[Tensor, "*pixel threshold"] | None = None
    skew_cm: Float[Tensor, "filter *pixel"] | None = None
    filter_materials: tuple[str, ...] = ()
    seed: int | None = None
    config: str | None = None
    software: str | None = None

    def nominal_model(self) -> SpectralModel:
        """The scanner with nominal thresholds; everything above the last one is counted."""
        energies = self.spectrum.energies_keV
        highest = max(self.response.deposited_keV[-1].item(), energies[-1].item() + 1)
        thresholds = Thresholds([*self.plates.thresholds_keV.tolist(), highest])
        materials = ["water", "calcium"]
        table = attenuation_table(materials, energies)
        return SpectralModel(
            energies, self.spectrum.fluence, Table(*self.response), thresholds, table, materials
        ).requires_grad_(False)


def true_detector(path: str | Path) -> PixelModel:
    """The detector of a simulated plate file, of gain one.

    Raises:
        ValueError: the file holds no true thresholds or skew.
    """
    record = read_plates(path)
    if record.true_thresholds_keV is None or record.skew_cm is None:
        raise ValueError(
            f"{path} holds no true_thresholds_keV or skew_cm: give plates that were simulated, as "
            "by python simulate.py datasets=plates"
        )
    return PixelModel.known(
        torch.ones_like(record.true_thresholds_keV[..., 0]),
        record.skew_cm.movedim(0, -1),
        record.filter_materials,
        record.true_thresholds_keV,
        record.plates.thresholds_keV,
    )


def plate_faults(path: str | Path) -> list[str]:
    """All faults of a plate file, one sentence each; empty for a valid one."""
    path = Path(path)
    if wrong := stored_faults(path, PLATES):
        return wrong
    try:
        _checked(read_stored(path, PLATES))
    except ValueError as error:
        return [str(error)]
    return []


def read_plates(path: str | Path) -> PlateRecord:
    """Read a plate file; counts in bins are summed to counts above thresholds.

    Raises:
        FileNotFoundError: there is no such file. ValueError: the first fault of the file.
    """
    path = Path(path)
    contents = read_stored(path, PLATES)
    try:
        return _checked(contents)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_plates(path: str | Path, record: PlateRecord) -> None:
    """Write a plate file, whole or not at all, and only if it is valid.

    Raises:
        ValueError: the first fault. OSError: the disk is full, or the folder cannot be written to.
    """
    plates = record.plates
    optional = {
        "exposure": plates.exposure,
        "frames": record.frames,
        "time_s": record.time_s,
        "true_thresholds_keV": record.true_thresholds_keV,
        "skew_cm": record.skew_cm,
        **{kind: plates.flags[kind].double() for kind in _FLAGS if kind in plates.flags},
    }
    arrays = {
        "counts": plates.counts.movedim(-1, 1),
        "plates_cm": plates.plates_cm.T,
        "thresholds_keV": plates.thresholds_keV,
        **{name: values for name, values in optional.items() if values is not None},
        **{f"spectrum/{k}": v for k, v in record.spectrum._asdict().items()},
        **{f"response/{k}": v for k, v in record.response._asdict().items()},
    }
    names = {"plates_cm": plates.materials, "skew_cm": record.filter_materials}
    attributes = {k: getattr(record, k) for k in PLATES.attributes if k != "noise_free"}
    attributes |= {"counted": "above", "noise_free": int(plates.noise_free) or None}
    write_stored(Path(path), PLATES, Contents(arrays, names, attributes))


def _checked(contents: Contents) -> PlateRecord:
    """The record, whose typical counts are those that its spectrum and response predict."""
    record = _record(contents)
    plates, nominal = record.plates, record.nominal_model()
    counts = plates.counts.flatten(1, -2).movedim(0, 1).double()
    good = ~any_of(unusable(counts, plates.flags))
    require_expected(counts[good], plate_model(plates, nominal, ["water"]), plates)
    return record


def _record(contents: Contents) -> PlateRecord:
    arrays = contents.arrays
    thresholds = arrays["thresholds_keV"]
    require_within(thresholds, arrays["spectrum/energies_keV"])
    frames = arrays.get("frames")
    # without a monitor, frames of equal exposure are assumed
    unequal = frames is not None and bool((frames != frames[0]).any())
    counts = arrays["counts"].movedim(1, -1)
    noise_free = contents.attributes.get("noise_free", 0) != 0
    flags = {kind: arrays[kind] != 0 for kind in _FLAGS if kind in arrays}
    flags = with_saturated(counts, flags, thresholds, noise_free)
    if contents.attributes["counted"] == "bins":
        counts = above_from_bins(counts)
    plates = CalibrationSet(
        counts,
        arrays["plates_cm"].T,
        contents.names["plates_cm"],
        thresholds,
        arrays.get("exposure", frames if unequal else None),
        flags,
        noise_free,
        contents.attributes["counted"],
    )
    return PlateRecord(
        contents.attributes.get("name", ""),
        plates,
        SpectrumRecord(*(arrays[f"spectrum/{name}"] for name in SpectrumRecord._fields)),
        ResponseRecord(*(arrays[f"response/{name}"] for name in ResponseRecord._fields)),
        frames,
        arrays.get("time_s"),
        contents.attributes.get("tube_kV"),
        arrays.get("true_thresholds_keV"),
        arrays.get("skew_cm"),
        contents.names.get("skew_cm", ()),
        **{k: contents.attributes.get(k) for k in ("seed", "config", "software")},
    )
