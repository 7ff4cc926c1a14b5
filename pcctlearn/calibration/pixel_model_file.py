"""Pixel model files: what a calibration found of every pixel (docs/pixel_model_file.md)."""

from pathlib import Path
from typing import Any

import torch

from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.stored import (
    Contents,
    FileSchema,
    read_stored,
    stored_faults,
    write_stored,
)
from pcctlearn.scans.schema import StoredArray

_POSITIVE = ("NaN", "infinite", "negative")
_SIGNED = ("NaN", "infinite")
_ERRORS = ("infinite", "negative")  # NaN where a pixel is flagged
_PROVENANCE = ("name", "plates", "plates_sha256", "config", "software")

PIXEL_MODEL = FileSchema(
    title="pcctlearn pixel model",
    version=1,
    page="docs/pixel_model_file.md",
    arrays={
        "gain": StoredArray("row column | pixel", "1", refused=_POSITIVE, required=True),
        "skew_cm": StoredArray(
            "filter row column | filter pixel", "cm", refused=_SIGNED, required=True
        ),
        "thresholds_keV": StoredArray(
            "row column threshold | pixel threshold",
            "keV",
            refused=_POSITIVE,
            required=True,
            increases=True,
        ),
        "nominal_keV": StoredArray("threshold", "keV", required=True, increases=True),
        "gain_skew_covariance": StoredArray(
            "row column unknown unknown | pixel unknown unknown",
            "1, cm",
            refused=("infinite",),
            required=True,
        ),
        "threshold_sd_keV": StoredArray(
            "row column threshold | pixel threshold",
            "keV",
            refused=_ERRORS,
            required=True,
            any_magnitude=True,
        ),
        "flags": StoredArray("kind row column | kind pixel", "1", refused=_POSITIVE),
    },
    names={"skew_cm": "materials", "flags": "kinds"},
    choices={"gauge": ("absolute", "relative")},
    attributes={"warnings": tuple, **dict.fromkeys(_PROVENANCE, str)},
)


def pixel_model_faults(path: str | Path) -> list[str]:
    """All faults of a pixel model file, one sentence each; empty for a valid one."""
    path = Path(path)
    if wrong := stored_faults(path, PIXEL_MODEL):
        return wrong
    return _contradictions(read_stored(path, PIXEL_MODEL))


def read_pixel_model(path: str | Path) -> PixelModel:
    """Read a pixel model file.

    Raises:
        FileNotFoundError: there is no such file. ValueError: the first fault of the file.
    """
    path = Path(path)
    contents = read_stored(path, PIXEL_MODEL)
    if wrong := _contradictions(contents):
        raise ValueError(f"{path}: {wrong[0]}")
    arrays = contents.arrays
    attributes = dict(contents.attributes)
    kinds = contents.names.get("flags", ())
    return PixelModel(
        gain=arrays["gain"],
        thickness_cm=arrays["skew_cm"].movedim(0, -1),
        materials=contents.names["skew_cm"],
        thresholds_keV=arrays["thresholds_keV"],
        nominal_keV=arrays["nominal_keV"],
        gain_covariance=arrays["gain_skew_covariance"],
        threshold_sd_keV=arrays["threshold_sd_keV"],
        gauge=attributes.pop("gauge"),
        flags={kind: arrays["flags"][index] != 0 for index, kind in enumerate(kinds)},
        warnings=attributes.pop("warnings", ()),
        provenance=attributes,
    )


def write_pixel_model(path: str | Path, pixels: PixelModel) -> None:
    """Write a pixel model file, whole or not at all, and only if it is valid.

    Raises:
        ValueError: the first fault. OSError: the disk is full, or the folder cannot be written to.
    """
    arrays = {
        "gain": pixels.gain,
        "skew_cm": pixels.thickness_cm.movedim(-1, 0),
        "thresholds_keV": pixels.thresholds_keV,
        "nominal_keV": pixels.nominal_keV,
        "gain_skew_covariance": pixels.gain_covariance,
        "threshold_sd_keV": pixels.threshold_sd_keV,
    }
    names = {"skew_cm": pixels.materials}
    if pixels.flags:
        arrays["flags"] = torch.stack([*pixels.flags.values()]).double()
        names["flags"] = tuple(pixels.flags)
    attributes: dict[str, Any] = {**pixels.provenance, "gauge": pixels.gauge}
    if pixels.warnings:
        attributes["warnings"] = list(pixels.warnings)
    contents = Contents(arrays, names, attributes)
    if wrong := _contradictions(contents):
        raise ValueError(f"{path} is not written: {wrong[0]}")
    write_stored(Path(path), PIXEL_MODEL, contents)


def _contradictions(contents: Contents) -> list[str]:
    """Arrays that are valid on their own but not together."""
    n_unknowns = contents.arrays["gain_skew_covariance"].shape[-1]
    if n_unknowns != (wanted := 1 + len(contents.arrays["skew_cm"])):
        return [
            f"gain_skew_covariance has {n_unknowns} unknowns, expected {wanted}: ln gain, then the "
            "thickness of each filter of skew_cm"
        ]
    if (contents.arrays["gain"] <= 0).any():
        return ["gain must be positive in every pixel: write 1 for pixels that are flagged"]
    return []
