"""A correction in a file, with the scanner that it was made for, and what that must agree in."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from pcctlearn.files import written_whole
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scatter.kernel import KernelScatter
from pcctlearn.scatter.kernel_parameters import KernelParameters
from pcctlearn.scatter.network import ScatterNetwork
from pcctlearn.tomography.cone_geometry import ConeBeam

KEY = "correction"  # beside the state_dict, where the weights begin with PREFIX
PREFIX = "chain.correct."
_SAME_BIN_keV = 1.0  # mean energy of what a bin counts
_SAME_GEOMETRY = 0.01  # of each length
# what torch raises on other bytes, and what other contents do where ours are looked for
_NO_CHECKPOINT = (
    pickle.UnpicklingError,
    LookupError,
    TypeError,
    RuntimeError,
    EOFError,
    AttributeError,
    OSError,
)


class SavedCorrection(NamedTuple):
    """A correction, and in what the scanner it was made for differs from this one."""

    correction: nn.Module
    differences: list[str]


def described(correction: nn.Module, geometry: ConeBeam, model: SpectralModel) -> dict[str, Any]:
    """What builds this correction again, and its scanner, in plain words and numbers."""
    facts: dict[str, Any]
    if isinstance(correction, ScatterNetwork):
        facts = {"kind": "network", "settings": dict(correction.settings)}
    elif isinstance(correction, KernelScatter):
        facts = {"kind": "kernel", "settings": correction.parameters_of_kernels.plain()}
    else:
        raise ValueError(f"{type(correction).__name__} is no correction that a checkpoint can hold")
    return facts | {"bins_keV": _bins_keV(model), "geometry": _lengths(geometry)}


def save_correction(
    path: Path, correction: nn.Module, geometry: ConeBeam, model: SpectralModel
) -> None:
    """Write what ``read_correction`` reads, as the checkpoint of a training has it."""
    state = {PREFIX + name: value for name, value in correction.state_dict().items()}
    content = {"state_dict": state, KEY: described(correction, geometry, model)}
    write_checkpoint(path, content)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """A checkpoint, whole or not at all.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    buffer = io.BytesIO()  # torch itself reports a full disk as an error of its own
    torch.save(content, buffer)
    with written_whole(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_correction(path: str | Path, geometry: ConeBeam, model: SpectralModel) -> SavedCorrection:
    """The correction of a checkpoint, ready for scans of this scanner.

    Counts are taken relative to air, so that exposures may differ. A geometry that differs is
    told, and left to the caller.

    Raises:
        FileNotFoundError: no such file. ValueError: no checkpoint of a scatter correction, or one
        for a detector whose bins see other energies.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {path}: a scatter study leaves one in its folder, as "
            "checkpoints/best.ckpt"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        facts, state = content[KEY], content["state_dict"]
        _check_bins(path, facts["bins_keV"], _bins_keV(model))
        correction = _built(facts, geometry, model)
        weights = {
            name.removeprefix(PREFIX): value
            for name, value in state.items()
            if name.startswith(PREFIX) and not name.endswith(".air")
        }
        missing, unknown = correction.load_state_dict(weights, strict=False)
        if unknown or set(missing) - {"air"}:
            raise KeyError(", ".join([*unknown, *missing]))
        differences = _differences(facts["geometry"], _lengths(geometry))
    except _NO_CHECKPOINT as error:
        reason = " ".join(str(error).split())[:80]
        if isinstance(error, pickle.UnpicklingError):
            reason = "it holds other things than weights"  # torch's own advice is to trust it
        raise ValueError(
            f"{path} is no checkpoint of a scatter correction ({reason}): give the "
            "checkpoints/best.ckpt of a run of experiment=scatter_direct, scatter_cross_domain or "
            "scatter_kernel"
        ) from None
    return SavedCorrection(correction.eval(), differences)


def _built(facts: Mapping[str, Any], geometry: ConeBeam, model: SpectralModel) -> nn.Module:
    """What the facts describe; ``LookupError`` where they describe nothing."""
    try:
        return _from_facts(facts, geometry, model)
    except ValueError as error:
        raise LookupError(str(error)) from error


def _from_facts(facts: Mapping[str, Any], geometry: ConeBeam, model: SpectralModel) -> nn.Module:
    air = model.air().detach().double()
    if facts["kind"] == "network":
        mean = air.reshape(-1, air.shape[-1]).mean(0)  # one for all pixels
        return ScatterNetwork(mean.float(), **facts["settings"])
    if facts["kind"] == "kernel":
        return KernelScatter(
            KernelParameters.from_plain(facts["settings"]),
            air.movedim(-1, 0),
            (geometry.row_cm, geometry.column_cm),
            offset_cm=(geometry.row_offset_cm, geometry.offset_cm),
        )
    raise KeyError(f"kind {facts['kind']!r}")


def _check_bins(path: Path, there_keV: list[float], here_keV: list[float]) -> None:
    if len(there_keV) != len(here_keV):
        raise ValueError(
            f"{path} was made for {len(there_keV)} energy bins, the scan has {len(here_keV)}: "
            "train on scans of this detector, or give its own checkpoint"
        )
    apart = max(abs(a - b) for a, b in zip(there_keV, here_keV, strict=True))
    if apart > _SAME_BIN_keV:
        there, here = (", ".join(f"{x:.1f}" for x in some) for some in (there_keV, here_keV))
        raise ValueError(
            f"{path} was made for another detector, tube voltage or thresholds: its bins count "
            f"photons of {there} keV on average, those of the scan {here} keV; train on scans of "
            "this detector, or give its own checkpoint"
        )


def _bins_keV(model: SpectralModel) -> list[float]:
    """Mean energy of the photons that each bin counts with nothing in the beam."""
    spectra = model.spectra().detach().double()
    energies = model.energies_keV.double()
    return ((spectra @ energies) / spectra.sum(-1)).reshape(-1, spectra.shape[-2]).mean(0).tolist()


def _lengths(geometry: ConeBeam) -> dict[str, float]:
    return {
        "rows": float(geometry.n_rows),
        "columns": float(geometry.n_columns),
        "row_cm": geometry.row_cm,
        "column_cm": geometry.column_cm,
        "offset_cm": geometry.offset_cm,
        "row_offset_cm": geometry.row_offset_cm,
        "source_to_axis_cm": geometry.source_to_axis_cm,
        "source_to_detector_cm": geometry.source_to_detector_cm,
        "axis_offset_cm": geometry.axis_offset_cm,
    }


def _differences(there: Mapping[str, float], here: Mapping[str, float]) -> list[str]:
    return [
        f"{name} {there[name]:.4g} there, {value:.4g} here"
        for name, value in here.items()
        if abs(there[name] - value) > _SAME_GEOMETRY * max(abs(value), 1e-3)
    ]
