"""Counts of a detector whose pixels differ, behind plates."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.plate_file import PlateRecord
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.physics.noise import draw_counts
from pcctlearn.physics.response.table import Table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.thresholds import above_from_bins, without_upper_limit
from pcctlearn.scans.record import ResponseRecord, SpectrumRecord
from pcctlearn.simulation.detector_errors import DetectorErrors
from pcctlearn.validation import require_positive

PHOTONS_WITHOUT_NOISE = 1e10  # in air: expected counts weigh as those of so many photons


class PlateMeasurement:
    """A detector with known flaws, measured behind plates.

    Args:
        model: the nominal scanner. Counts above thresholds have no upper limit: its last edge
            must not lie below the end of the spectrum, and is raised to the end of the response.
        errors: how pixels differ.
        plates_cm: {material: thickness in each exposure}.
        n_rows, n_columns: of the detector.
        photons: that reach a pixel in air in each exposure.
        skew_material: of the flaws.
        dead_share: share of pixels that count nothing.
        exposure_error: relative standard deviation of the exposures, which a monitor measures.
        noise: draw Poisson counts instead of using the expected ones.
        seed: of flaws and noise.
    """

    def __init__(
        self,
        model: SpectralModel,
        errors: DetectorErrors,
        plates_cm: Mapping[str, Sequence[float]],
        n_rows: int = 1,
        n_columns: int = 896,
        photons: float = 1e8,
        skew_material: str = "CdTe",
        dead_share: float = 0.0,
        exposure_error: float = 0.0,
        noise: bool = True,
        seed: int = 0,
    ) -> None:
        lengths = {name: len(values) for name, values in plates_cm.items()}
        if not lengths or len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ValueError(
                f"plates_cm must list the thickness of each material in every exposure, got "
                f"{lengths} thicknesses: give all materials as many, 0 where one is absent"
            )
        require_positive(n_rows=n_rows, n_columns=n_columns, photons=photons)
        if n_rows * n_columns < 2 or not 0 <= dead_share < 0.5 or not 0 <= exposure_error < 0.3:
            raise ValueError(
                "the detector needs two pixels or more, dead_share must be below 0.5, and "
                f"exposure_error below 0.3, got n_rows={n_rows}, n_columns={n_columns}, "
                f"dead_share={dead_share} and exposure_error={exposure_error}"
            )
        self.errors, self.photons = errors, photons
        self.response = as_table(model)
        self.model = without_upper_limit_of(model, self.response)
        self.materials = tuple(plates_cm)
        self.plates_cm = torch.tensor([*plates_cm.values()], dtype=torch.float64).T
        self.shape, self.skew_material = (n_rows, n_columns), skew_material
        self.dead_share, self.exposure_error = dead_share, exposure_error
        self.noise, self.seed = noise, seed

    def detector(self) -> PixelModel:
        """The true detector."""
        nominal = self.model.thresholds.edges_keV.detach()[:-1]
        n_rows, n_columns = self.shape
        row = self.errors.pixels(nominal, n_rows * n_columns, self.seed, self.skew_material)
        return row.as_panel(self.shape)

    def record(self, name: str, config: str | None = None) -> PlateRecord:
        """Measure the plates."""
        truth = self.detector()
        generator = torch.Generator().manual_seed(self.seed + 1)
        spread = torch.randn(len(self.plates_cm), generator=generator, dtype=torch.float64)
        exposure = 1 + self.exposure_error * spread.clamp(-3, 3)
        seed = self.seed + 2 if self.noise else None
        plates = measured_plates(
            truth, self.model, self.plates_cm, self.materials, self.photons, seed, exposure
        )
        dead = torch.rand(self.shape, generator=generator, dtype=torch.float64) < self.dead_share
        plates = replace(plates, counts=plates.counts.masked_fill(dead[..., None], 0.0))
        response, energies = self.response, self.model.energies_keV
        fluence = self.model.fluence * (self.photons / self.model.fluence.sum())
        return PlateRecord(
            name,
            plates,
            SpectrumRecord(energies, fluence),
            ResponseRecord(
                response.energies_keV, response.deposited_keV, response.response_per_keV
            ),
            true_thresholds_keV=truth.thresholds_keV,
            skew_cm=truth.thickness_cm.movedim(-1, 0),
            filter_materials=truth.materials,
            seed=self.seed,
            config=config,
            software="pcctlearn",
        )


def as_table(model: SpectralModel) -> Table:
    """The response of a model as the table that files hold."""
    response = model.response
    return response if isinstance(response, Table) else Table.sampled(response, model.energies_keV)


def without_upper_limit_of(model: SpectralModel, response: Table) -> SpectralModel:
    """The model with a last edge above which nothing is registered.

    Raises:
        ValueError: its last edge lies below the end of the spectrum.
    """
    edges, end = model.thresholds.edges_keV.detach(), float(model.energies_keV[-1])
    if float(edges[-1]) < end:
        raise ValueError(
            f"the last edge of {float(edges[-1]):g} keV lies below the end of the spectrum at "
            f"{end:g} keV, but counts above thresholds have no upper limit: use "
            f"{without_upper_limit(edges[:-1].tolist(), end)}"
        )
    last = torch.maximum(edges[-1:], response.deposited_keV[-1:].to(edges))
    return model.with_edges(torch.cat([edges[:-1], last]))


@torch.no_grad()
def measured_plates(
    pixels: PixelModel,
    nominal: SpectralModel,
    plates_cm: Float[Tensor, "exposure material"],
    materials: tuple[str, ...],
    photons: float,
    seed: int | None = None,
    exposure: Float[Tensor, "exposure"] | None = None,
) -> CalibrationSet:
    """Counts above thresholds behind plates, with the exposure known.

    Bins are Poisson distributed and independent; counts above thresholds are sums of bins, so that
    they share the photons above the higher threshold.

    Args:
        pixels: what each pixel does.
        nominal: the scanner.
        plates_cm, materials: of each exposure.
        photons: that reach a pixel in air.
        seed: of the noise; expected counts without one.
        exposure: factors of ``photons``, by default one.
    """
    attenuation = linear_attenuation(materials, nominal.energies_keV)
    exposure = torch.ones_like(plates_cm[:, 0]) if exposure is None else exposure
    transmission = torch.exp(-plates_cm @ attenuation) * exposure[:, None]
    spectra = pixels.spectral_model(nominal).spectra()
    bins = torch.einsum("...be,me->m...b", spectra, transmission)
    bins = bins * (photons / nominal.fluence.sum())
    if seed is not None:
        bins = draw_counts(bins, torch.Generator().manual_seed(seed))
    return CalibrationSet(
        above_from_bins(bins), plates_cm, materials, pixels.nominal_keV, exposure,
        noise_free=seed is None,
    )  # fmt: skip
