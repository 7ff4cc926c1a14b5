"""The nominal scanner of a bench: spectrum, response and thresholds."""

from typing import NamedTuple

from pcctlearn.bench.description import Bench
from pcctlearn.physics.attenuation import attenuation_table
from pcctlearn.physics.response import presets
from pcctlearn.physics.response.table import Table
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.scans.record import ResponseRecord, SpectrumRecord

_OF_THE_PACKAGE = {
    "cdte_monte_carlo": presets.cdte_monte_carlo,
    "silicon_monte_carlo": presets.silicon_monte_carlo,
}


class Scanner(NamedTuple):
    """The nominal scanner, one photon in the beam, and its parts as files hold them."""

    model: SpectralModel
    spectrum: SpectrumRecord
    response: ResponseRecord


def nominal_scanner(bench: Bench) -> Scanner:
    """The scanner with nominal thresholds; all that is registered above the last one is counted.

    Raises:
        FileNotFoundError: a file is missing. ValueError: it is no spectrum or response, or a
            threshold lies beyond the spectrum.
    """
    try:
        spectrum = Spectrum(bench.spectrum, photons_per_pixel=1.0)
        response = _OF_THE_PACKAGE.get(bench.response, lambda: None)()
        if response is None:
            response = Table.from_file(bench.file.parent / bench.response)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{bench.file}: {error}") from None
    energies, thresholds = spectrum.energies_keV, bench.thresholds_keV
    if not energies[0] <= thresholds[0] or not thresholds[-1] < energies[-1]:
        raise ValueError(
            f"{bench.file}: thresholds_keV of {list(thresholds)} keV are not all within the "
            f"spectrum of {energies[0]:g} to {energies[-1]:g} keV: correct one of them"
        )
    last = max(response.deposited_keV[-1].item(), energies[-1].item() + 1)
    table = attenuation_table(["water"], energies)
    edges = Thresholds([*thresholds, last])
    model = SpectralModel(energies, spectrum.fluence, response, edges, table, ["water"])
    parts = (response.energies_keV, response.deposited_keV, response.response_per_keV)
    return Scanner(
        model.requires_grad_(False),
        SpectrumRecord(energies, spectrum.fluence),
        ResponseRecord(*parts),
    )
