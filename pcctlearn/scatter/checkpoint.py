"""Checkpoints of scatter corrections, with their settings and their scanner."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcctlearn.files.atomic import written_whole
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scatter.base import ScatterCorrection, rebuilt, require_cone
from pcctlearn.scatter.checkpoint_content import (
    GEOMETRY,
    KEY,
    PREFIX,
    no_checkpoint,
    read_content,
)
from pcctlearn.tomography.geometry.base import Geometry
from pcctlearn.tomography.geometry.cone import ConeBeam

_SAME_BIN_keV = 1.0  # largest difference of the mean energy of a bin
_SAME_GEOMETRY = 0.01  # largest relative difference of a length


class CorrectionBuilder:
    """Builds the scatter correction of a scanner, from its constructor or from a checkpoint.

    Args:
        correction: constructor that takes geometry and model; ``None`` for no correction.
        checkpoint: file of a trained correction, used instead of a new one and read once.
    """

    def __init__(
        self, correction: Callable[..., ScatterCorrection] | None, checkpoint: str | None = None
    ) -> None:
        if correction is None and checkpoint is not None:
            raise ValueError(
                f"scatter=none accepts no checkpoint, got {checkpoint}: choose scatter=network"
            )
        self._new = correction
        self._saved = None if checkpoint is None else SavedCorrection(checkpoint, correction)

    def __call__(self, geometry: Geometry, model: SpectralModel) -> ScatterCorrection | None:
        """The correction of this scanner, or ``None`` for no correction.

        Raises:
            ValueError: the checkpoint is for another detector, or the geometry is no cone beam.
        """
        build = self._saved or self._new
        return None if build is None else build(require_cone(geometry), model)

    def ready(self, geometry: Geometry, model: SpectralModel) -> ScatterCorrection | None:
        """The correction in evaluation mode.

        Raises:
            FileNotFoundError: the correction needs a fit to scans, and there is no checkpoint.
        """
        correction = self(geometry, model)
        if correction is not None and correction.needs_scans and self._saved is None:
            raise FileNotFoundError(
                f"{type(correction).__name__} must be fitted to scans: give the checkpoint of a "
                "run of train.py, scatter.checkpoint=RUN/checkpoints/best.ckpt"
            )
        return None if correction is None else correction.eval()

    def differences(self, geometry: Geometry) -> list[str]:
        """Differences of the geometry of the checkpoint, if there is one, from this one."""
        return [] if self._saved is None else self._saved.differences(require_cone(geometry))


class SavedCorrection:
    """The scatter correction of a checkpoint, for scanners with the same energy bins.

    Corrections use counts relative to air, so exposures may differ. The correction is a class of
    this package, or the class whose constructor is ``chosen``.

    Raises:
        FileNotFoundError: no such file. ValueError: not a checkpoint of a scatter correction.
    """

    def __init__(
        self, path: str | Path, chosen: Callable[..., ScatterCorrection] | None = None
    ) -> None:
        self._path, self._chosen = Path(path), chosen
        if not self._path.is_file():
            raise FileNotFoundError(
                f"no checkpoint at {path}: a scatter study writes checkpoints/best.ckpt in its "
                "folder"
            )
        self._content = read_content(self._path)

    def __call__(self, geometry: ConeBeam, model: SpectralModel) -> ScatterCorrection:
        """The correction with its weights, for scans of this scanner.

        Raises:
            ValueError: its energy bins differ from those of the scan, or its weights do not match
                its settings.
        """
        _check_bins(self._path, self._content.bins_keV, _bins_keV(model))
        try:
            correction = rebuilt(self._content.spec, geometry, model, self._chosen)
            _check_shapes(correction, self._content.weights)
            correction.load_state_dict(self._content.weights)
            _check_answers(correction.eval(), geometry, model)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise no_checkpoint(self._path, error) from None
        return correction

    def differences(self, geometry: ConeBeam) -> list[str]:
        """Differences of the geometry of the checkpoint from this one."""
        saved = self._content.geometry
        return [
            f"{name} {saved[name]:.4g} in the checkpoint, {value:.4g} in the scan"
            for name, value in _lengths(geometry).items()
            if abs(saved[name] - value) > _SAME_GEOMETRY * max(abs(value), 1e-3)
        ]


def described(
    correction: ScatterCorrection, geometry: ConeBeam, model: SpectralModel
) -> dict[str, Any]:
    """Settings of a correction and its scanner, as plain values for a checkpoint."""
    return {
        "spec": correction.spec(),
        "bins_keV": _bins_keV(model),
        "geometry": _lengths(geometry),
    }


def save_correction(
    path: Path, correction: ScatterCorrection, geometry: ConeBeam, model: SpectralModel
) -> None:
    """Write a checkpoint for ``SavedCorrection``, in the format of a training run."""
    state = {PREFIX + name: value for name, value in correction.state_dict().items()}
    content = {"state_dict": state, KEY: described(correction, geometry, model)}
    write_checkpoint(path, content)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Raises:
        OSError: the disk is full, or the folder is not writable.
    """
    buffer = io.BytesIO()  # torch.save would raise other errors for a full disk
    torch.save(content, buffer)
    with written_whole(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _check_shapes(correction: ScatterCorrection, weights: Mapping[str, Tensor]) -> None:
    wanted = {name: value.shape for name, value in correction.state_dict().items()}
    found = {name: value.shape for name, value in weights.items()}
    if different := sorted(n for n in wanted | found if wanted.get(n) != found.get(n)):
        raise ValueError(
            f"the shapes of weights {', '.join(different[:3])} do not match the settings"
        )


@torch.no_grad()
def _check_answers(correction: ScatterCorrection, geometry: ConeBeam, model: SpectralModel) -> None:
    """Evaluate at transmissions 1, 0.1 and 0.001: finite weights may still overflow."""
    air = model.air().detach().double()
    pixels = air.expand(geometry.n_rows, geometry.n_columns, -1) if air.ndim == 1 else air
    views = torch.tensor([1.0, 0.1, 0.001]).to(air)
    counts = (pixels.movedim(-1, 0)[:, None] * views[:, None, None])[None]
    fraction = correction(counts.to(torch.get_default_dtype()))
    if not ((fraction >= 0) & (fraction <= 1)).all():
        raise ValueError("its scatter fraction is not in 0 … 1: its weights are too large")


def _check_bins(path: Path, saved_keV: list[float], scan_keV: list[float]) -> None:
    if len(saved_keV) != len(scan_keV):
        raise ValueError(
            f"{path} was trained for {len(saved_keV)} energy bins, the scan has {len(scan_keV)}: "
            "train on scans of this detector, or give a checkpoint for it"
        )
    apart = max(abs(a - b) for a, b in zip(saved_keV, scan_keV, strict=True))
    if apart > _SAME_BIN_keV:
        saved, scan = (", ".join(f"{x:.1f}" for x in means) for means in (saved_keV, scan_keV))
        raise ValueError(
            f"{path} was trained for another detector, tube voltage or thresholds: the mean photon "
            f"energies of its bins are {saved} keV, those of the scan {scan} keV; train on scans "
            "of this detector, or give a checkpoint for it"
        )


def _bins_keV(model: SpectralModel) -> list[float]:
    """Mean energy of the photons that each bin counts without an object."""
    spectra = model.spectra().detach().double()
    energies = model.energies_keV.double()
    return ((spectra @ energies) / spectra.sum(-1)).reshape(-1, spectra.shape[-2]).mean(0).tolist()


def _lengths(geometry: ConeBeam) -> dict[str, float]:
    counts = {"rows": geometry.n_rows, "columns": geometry.n_columns}
    return {name: float(counts.get(name) or getattr(geometry, name)) for name in GEOMETRY}
