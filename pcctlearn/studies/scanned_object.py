"""A scan of an unknown object: what calibrate.py calibrates from without plates or a phantom."""

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.dead_times import DeadTimes
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.stored import schema_of
from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.spectral_model import SpectralModel, expected_counts
from pcctlearn.physics.thresholds import above_from_bins
from pcctlearn.scan import SHADOW_G_CM2
from pcctlearn.scans.file import read_scan
from pcctlearn.scans.record import ScanRecord
from pcctlearn.scans.schema import SCHEMA
from pcctlearn.studies.known_objects import Above, KnownPhantom, require_no_dead_times

_BASIS = ("water", "calcium")  # for files that name no materials


class ScannedObject(KnownPhantom):
    """The scan of an object whose line integrals are those that its counts decompose into.

    Residuals are what the bins leave over the basis materials, for the pixels that decompose them.

    Args:
        scan: its counts, spectrum and response; line integrals are not used.
    """

    def __init__(self, scan: ScanRecord) -> None:
        if scan.spectrum is None or scan.response is None:
            raise ValueError(
                "the scan holds no spectrum or no response: write both into its file "
                "(docs/scan_file.md)"
            )
        scan = replace(scan, materials=scan.materials or _BASIS, line_integrals=None)
        model = scan.spectral_model()
        assert model is not None
        spectra = model.spectra().detach().expand(*scan.air.shape[1:], -1, -1)
        area = _decomposed(scan, spectra, model.attenuation)
        if not (area.sum(-1) > SHADOW_G_CM2).any():
            raise ValueError(
                "no ray of the scan crosses an object: give the scan of an object, which need not "
                "be known"
            )
        super().__init__(replace(scan, line_integrals=area.movedim(-1, 0)))

    def redrawn(self, nominal: SpectralModel, found: PixelModel, seed: int) -> "ScannedObject":
        """As ``KnownObjects``, and air of as many photons as all views, as the fit takes it."""
        scan = super().redrawn(nominal, found, seed).measured
        n_views = scan.at("counts").shape[1]
        drawn = draw_counts(n_views * scan.air.double(), torch.Generator().manual_seed(seed + 1))
        air = torch.where(found.calibrated, (drawn / n_views).float(), scan.air)
        return ScannedObject(replace(scan, air=air))

    @torch.no_grad()
    def _expected(self, nominal: SpectralModel, pixels: PixelModel) -> Above:
        """Counts above thresholds of the decomposition with these pixels, scaled to their air."""
        spectra = pixels.spectral_model(nominal).spectra().double()
        air = self.measured.air.double().movedim(0, -1)
        table = nominal.attenuation.double()
        area = _decomposed(self.measured, spectra, table)
        spectra = spectra * (air / spectra.sum(-1))[..., None]
        return above_from_bins(torch.stack([expected_counts(one, spectra, table) for one in area]))


def _decomposed(
    scan: ScanRecord,
    spectra: Float[Tensor, "row column bin energy"],
    attenuation: Float[Tensor, "material energy"],
) -> Float[Tensor, "view row column material"]:
    """Line integrals of the counts, with spectra scaled to the air of each pixel.

    They are zero where counts or air are missing, so that no dead pixel counts as deep.
    """
    counts, air = (values.nan_to_num().double() for values in (scan.at("counts"), scan.air))
    scale = air.movedim(0, -1) / spectra.double().sum(-1)
    scaled = (spectra * torch.where(scale > 0, scale, 1)[..., None]).float()
    found = decompose(counts.movedim(0, -1).float(), scaled, attenuation.float())
    usable = (counts.sum(0) > 0) & (air > 0).all(0)
    return torch.where(usable[..., None], found.x.double(), 0.0)


def read_scanned_object(path: Path, dead_times: DeadTimes | None = None) -> ScannedObject:
    """The object of a scan file.

    Raises:
        ValueError: the file is not valid or no scan, or dead times are given.
    """
    if path.is_file() and schema_of(path) != SCHEMA:
        raise ValueError(
            "it is no scan file, calibration=self_calibration needs one (docs/scan_file.md): give "
            "counts=SCAN.h5, or use calibration=etb for a plate file"
        )
    require_no_dead_times(dead_times)
    truth = ("line_integrals", "true_thresholds_keV", "skew_cm")
    needed = ("counts", "spectrum", "response", *truth)
    return ScannedObject(read_scan(path, only=needed).of_equal_exposure())
