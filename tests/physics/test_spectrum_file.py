"""Spectra of other programs are read, or the error names a remedy."""

import numpy as np
import pytest
import torch

from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.spectrum_file import read_spectrum

HEADER = "energy_keV,fluence_per_cm2_mAs_keV_at_100cm"
ENERGIES, FLUENCE = [20.5, 21.5, 22.5, 23.5], [1.5, 3.0e6, 2.25, 0.5]


def rows(separator, decimal=".", unit=1.0):
    cells = [(f"{e * unit!r}", f"{f!r}") for e, f in zip(ENERGIES, FLUENCE, strict=True)]
    return "\n".join(separator.join(row).replace(".", decimal) for row in cells) + "\n"


LAYOUTS = {
    "SpekPy, tabs": "Energy(keV)\tFluence(photons/cm2/mAs/keV)\n" + rows("\t"),
    "SpekPy, CSV": "Energy [keV],Fluence [cm^-2 keV^-1]\n" + rows(","),
    "comma and blank": "energy, photons\n" + rows(", "),
    "semicolons": "SpekPy 2.5\nInputs: kVp 120;th 12\n\nEnergy[keV];Fluence\n" + rows(";"),
    "decimal commas, semicolons": "Energie;Fluenz\n" + rows(";", ","),
    "decimal commas, tabs": rows("\t", ","),
    "TASMIP, blanks": "% kVp 120\n" + "".join(f"   {row}\n" for row in rows("    ").split("\n")),
    "gecatsim": f"{len(ENERGIES)}\n" + rows(","),
    "comments at the end": rows(" ") + "# end\n\n",
    "a third column": rows(",").replace("\n", ",7\n"),
    "Windows": rows(",").replace("\n", "\r\n"),
    "byte-order mark": "\ufeffE,S\n" + rows(","),
    "its passport": f"# source: x\n{HEADER}\n" + rows(","),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_other_programs(tmp_path, layout):
    path = tmp_path / "tube.txt"
    path.write_bytes(LAYOUTS[layout].encode())
    tube = read_spectrum(path)
    assert tube.energies_keV.tolist() == ENERGIES
    assert tube.fluence.tolist() == FLUENCE
    assert tube.absolute == (layout == "its passport")


@pytest.mark.parametrize(("unit", "factor"), [("eV", 1e3), ("MeV", 1e-3)])
def test_energies_in_another_unit(tmp_path, unit, factor):
    path = tmp_path / "tube.txt"
    path.write_text(rows(" ", unit=factor), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"tube\.txt .*energy_unit={unit}"):
        Spectrum(path, photons_per_pixel=1e5)
    tube = Spectrum(path, photons_per_pixel=1e5, energy_unit=unit)
    np.testing.assert_allclose(tube.energies_keV, ENERGIES)


def test_a_staircase_is_read_as_cells(tmp_path):
    path = tmp_path / "tube.txt"
    borders = np.arange(20.0, 25.0)
    steps = [(b, f) for k, f in enumerate(FLUENCE) for b in borders[k : k + 2]]
    path.write_text("".join(f"{e}\t{f}\n" for e, f in steps), encoding="utf-8")
    tube = read_spectrum(path)
    assert tube.energies_keV.tolist() == ENERGIES
    assert tube.fluence.tolist() == FLUENCE


def test_a_file_without_a_unit_needs_photons(tmp_path):
    path = tmp_path / "tube.csv"
    path.write_text("E,S\n" + rows(","), encoding="utf-8")
    with pytest.raises(ValueError, match=r"tube\.csv .*photons_per_pixel"):
        Spectrum(path)
    assert Spectrum(path, photons_per_pixel=1e6).fluence.sum().item() == pytest.approx(1e6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "two or more energies"),
        ("energy,photons\n", "two or more energies"),
        (f"{HEADER}\n1.5,1\n", "two or more energies"),
        (f"{HEADER}\n1.5,1\n2.5,many\n", "line 3 .*'2.5,many'"),
        (f"{HEADER}\n1.5,1\n2.5\n", "line 3 .*'2.5'"),
        (f"{HEADER}\n2.5,1\n1.5,2\n", r"1\.5 keV .* 2\.5 keV"),
        (f"{HEADER}\n1.5,1\n1.5,2\n", r"1\.5 keV .* 1\.5 keV"),
        (f"{HEADER}\nnan,1\n2.5,2\n", "energies .* finite"),
        (f"{HEADER}\n1.5,1\n2.5,-2\n", r"negative in 1 of 2 samples.* 2\.5 keV"),
        (f"{HEADER}\n1.5,1\n2.5,inf\n", "infinite in 1 of 2 samples"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    path = tmp_path / "tube.csv"
    path.write_text("# a passport\n" + text if text else text, encoding="utf-8")
    with pytest.raises(ValueError, match=message.replace("line 3", "line 4")) as raised:
        read_spectrum(path)
    assert "tube.csv" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\x00\x80" * 99, "damaged or not a spectrum"),
        (b"1,2\n" * 3_000_000, "more than the limit"),
    ],
)
def test_binary_and_oversized_files_raise_an_error(tmp_path, content, words):
    path = tmp_path / "tube.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"tube\.csv .*{words}"):
        read_spectrum(path)


def test_an_unknown_unit_raises_an_error(tmp_path, annotations_off):
    path = tmp_path / "tube.csv"
    path.write_text(rows(","), encoding="utf-8")
    with pytest.raises(ValueError, match=r"energy_unit .*keV, eV, MeV.* 'GeV'"):
        read_spectrum(path, "GeV")


def test_a_spectrum_every_half_keV_in_the_spectral_model(tmp_path):
    """The columns of the shipped CdTe table are 1 keV apart."""
    from support.scanners import FOUR_BINS, SPECTRA

    from pcctlearn.physics.response.table import Table
    from pcctlearn.physics.spectral_model import SpectralModel
    from pcctlearn.physics.thresholds import Thresholds

    energies = np.arange(10.0, 120.5, 0.5)
    fluence = (energies - 9) * (121 - energies)
    path = tmp_path / "half.csv"
    np.savetxt(path, np.stack([energies, fluence], 1), delimiter=",", header="E,S")
    response = Table.from_file(SPECTRA.parent / "response/cdte_750um.csv")
    tube = Spectrum(path, photons_per_pixel=1e6)
    model = SpectralModel.from_parts(tube, response, Thresholds(FOUR_BINS), ["water", "calcium"])
    coarse = Spectrum.from_arrays(energies[1::2], fluence[1::2], photons_per_pixel=1e6)
    expected = SpectralModel.from_parts(coarse, response, Thresholds(FOUR_BINS), ["water"])
    torch.testing.assert_close(model.air(), expected.air(), rtol=5e-3, atol=0)
