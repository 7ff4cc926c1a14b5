"""A correction in a file, with the scanner that it was made for, and what that must agree in."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pcctlearn.files import written_whole
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scatter.checkpoint_content import (
    GEOMETRY,
    KEY,
    PREFIX,
    Content,
    no_checkpoint,
    read_content,
)
from pcctlearn.scatter.kernel import KernelScatter
from pcctlearn.scatter.kernel_parameters import KernelParameters
from pcctlearn.scatter.network import ScatterNetwork
from pcctlearn.tomography.cone_geometry import ConeBeam

_SAME_BIN_keV = 1.0  # mean energy of what a bin counts
_SAME_GEOMETRY = 0.01  # of each length


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
    content = read_content(path)
    _check_bins(path, content.bins_keV, _bins_keV(model))
    try:
        correction = _built(content, geometry, model)
    except (KeyError, TypeError, ValueError) as error:
        raise no_checkpoint(path, error) from None
    return SavedCorrection(correction.eval(), _differences(content.geometry, _lengths(geometry)))


def _built(content: Content, geometry: ConeBeam, model: SpectralModel) -> nn.Module:
    """The correction of a checkpoint with its weights; ValueError where it has others."""
    air = model.air().detach().double()
    if content.kind == "network":
        # shapes first: a network that the weights do not fill may be larger than memory
        with torch.device("meta"):
            outline = _of_kind(content, geometry, air)
        _check_shapes(outline, content.weights)
    correction = _of_kind(content, geometry, air)
    _check_shapes(correction, content.weights)
    correction.load_state_dict(content.weights, strict=False)
    _check_answers(correction.eval(), geometry, air)
    return correction


def _of_kind(content: Content, geometry: ConeBeam, air: Float[Tensor, "*pixel bin"]) -> nn.Module:
    if content.kind == "network":
        mean = air.reshape(-1, air.shape[-1]).mean(0)  # one for all pixels
        return ScatterNetwork(mean.float(), **content.settings)
    return KernelScatter(
        KernelParameters.from_plain(content.settings),
        air.movedim(-1, 0),
        (geometry.row_cm, geometry.column_cm),
        offset_cm=(geometry.row_offset_cm, geometry.offset_cm),
    )


def _check_shapes(correction: nn.Module, weights: Mapping[str, Tensor]) -> None:
    wanted = {name: value.shape for name, value in correction.state_dict().items() if name != "air"}
    found = {name: value.shape for name, value in weights.items()}
    if different := sorted(n for n in wanted | found if wanted.get(n) != found.get(n)):
        raise ValueError(f"the weights {', '.join(different[:3])} have other shapes")


@torch.no_grad()
def _check_answers(
    correction: nn.Module, geometry: ConeBeam, air: Float[Tensor, "*pixel bin"]
) -> None:
    """Weights may be finite and still overflow: try three views, from no object to a thick one."""
    pixels = air.expand(geometry.n_rows, geometry.n_columns, -1) if air.ndim == 1 else air
    views = torch.tensor([1.0, 0.1, 0.001]).to(air)
    counts = (pixels.movedim(-1, 0)[:, None] * views[:, None, None])[None]
    fraction = correction(counts.to(torch.get_default_dtype()))
    if not ((fraction >= 0) & (fraction <= 1)).all():
        raise ValueError("its scatter is not between 0 and the counts: its weights are too large")


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
    counts = {"rows": geometry.n_rows, "columns": geometry.n_columns}
    return {name: float(counts.get(name) or getattr(geometry, name)) for name in GEOMETRY}


def _differences(there: Mapping[str, float], here: Mapping[str, float]) -> list[str]:
    return [
        f"{name} {there[name]:.4g} there, {value:.4g} here"
        for name, value in here.items()
        if abs(there[name] - value) > _SAME_GEOMETRY * max(abs(value), 1e-3)
    ]
