"""Checkpoints of scatter corrections: what rebuilds one, and the scanner that it was made for."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcctlearn.files.atomic import written_whole
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.scatter.base import ScatterCorrection, rebuilt
from pcctlearn.scatter.checkpoint_content import (
    GEOMETRY,
    KEY,
    PREFIX,
    no_checkpoint,
    read_content,
)
from pcctlearn.tomography.geometry.cone import ConeBeam

_SAME_BIN_keV = 1.0  # mean energy of what a bin counts
_SAME_GEOMETRY = 0.01  # of each length


class CorrectionBuilder:
    """Builds the scatter correction of a scanner: a new one, or that of a checkpoint.

    Args:
        correction: constructor awaiting geometry and model; ``None`` for no correction.
        checkpoint: file of a trained correction, read once, which takes the place of a new one.
    """

    def __init__(
        self, correction: Callable[..., ScatterCorrection] | None, checkpoint: str | None = None
    ) -> None:
        if correction is None and checkpoint is not None:
            raise ValueError(
                f"scatter=none takes no checkpoint, got {checkpoint}: choose scatter=network"
            )
        self._new = correction
        self._saved = None if checkpoint is None else SavedCorrection(checkpoint, correction)

    def __call__(self, geometry: ConeBeam, model: SpectralModel) -> ScatterCorrection | None:
        """The correction of this scanner, or ``None`` where there is to be none.

        Raises:
            ValueError: the checkpoint is for another detector.
        """
        build = self._saved or self._new
        return None if build is None else build(geometry, model)

    def ready(self, geometry: ConeBeam, model: SpectralModel) -> ScatterCorrection | None:
        """The same, to be used as it is.

        Raises:
            FileNotFoundError: the correction is fitted to scans, and there is no checkpoint.
        """
        correction = self(geometry, model)
        if correction is not None and correction.needs_scans and self._saved is None:
            raise FileNotFoundError(
                f"{type(correction).__name__} is fitted to scans by a study: give the checkpoint "
                "that train.py wrote, scatter.checkpoint=RUN/checkpoints/best.ckpt"
            )
        return None if correction is None else correction.eval()

    def differences(self, geometry: ConeBeam) -> list[str]:
        """In what the geometry of the checkpoint, if there is one, differs from this one."""
        return [] if self._saved is None else self._saved.differences(geometry)


class SavedCorrection:
    """The scatter correction in a checkpoint, for any scanner with its detector.

    Counts are taken relative to air, so that exposures may differ. It is a class of this package,
    or the one whose constructor is ``chosen``.

    Raises:
        FileNotFoundError: no such file. ValueError: no checkpoint of a scatter correction.
    """

    def __init__(
        self, path: str | Path, chosen: Callable[..., ScatterCorrection] | None = None
    ) -> None:
        self._path, self._chosen = Path(path), chosen
        if not self._path.is_file():
            raise FileNotFoundError(
                f"no checkpoint at {path}: a scatter study leaves one in its folder, as "
                "checkpoints/best.ckpt"
            )
        self._content = read_content(self._path)

    def __call__(self, geometry: ConeBeam, model: SpectralModel) -> ScatterCorrection:
        """The correction with its weights, for scans of this scanner.

        Raises:
            ValueError: its bins see other energies, or its settings and weights do not fit.
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
        """In what the geometry that it was made for differs from this one."""
        there = self._content.geometry
        return [
            f"{name} {there[name]:.4g} there, {value:.4g} here"
            for name, value in _lengths(geometry).items()
            if abs(there[name] - value) > _SAME_GEOMETRY * max(abs(value), 1e-3)
        ]


def described(
    correction: ScatterCorrection, geometry: ConeBeam, model: SpectralModel
) -> dict[str, Any]:
    """What rebuilds this correction, and its scanner, in plain words and numbers."""
    return {
        "spec": correction.spec(),
        "bins_keV": _bins_keV(model),
        "geometry": _lengths(geometry),
    }


def save_correction(
    path: Path, correction: ScatterCorrection, geometry: ConeBeam, model: SpectralModel
) -> None:
    """Write what ``SavedCorrection`` reads, as a checkpoint of a training has it."""
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


def _check_shapes(correction: ScatterCorrection, weights: Mapping[str, Tensor]) -> None:
    wanted = {name: value.shape for name, value in correction.state_dict().items()}
    found = {name: value.shape for name, value in weights.items()}
    if different := sorted(n for n in wanted | found if wanted.get(n) != found.get(n)):
        raise ValueError(f"the weights {', '.join(different[:3])} have other shapes")


@torch.no_grad()
def _check_answers(correction: ScatterCorrection, geometry: ConeBeam, model: SpectralModel) -> None:
    """Weights may be finite and still overflow: try three views, from no object to a thick one."""
    air = model.air().detach().double()
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
