"""Make the tube spectra in this folder with spekpy: unfiltered tungsten output at 100 cm.

    pip install -r requirements-spectra.txt
    python data/physics/make_spectra.py

Filtration is left out on purpose: `pcctlearn.physics.spectrum.Spectrum` takes it as a parameter.
"""

from importlib.metadata import version
from pathlib import Path

from pcctlearn.physics.spectrum import SpekpyTube, tube_output

FOLDER = Path(__file__).parent / "spectra"
TUBES = [(80, 12), (100, 12), (120, 12), (140, 12), (120, 7)]  # kV, anode angle in degrees


def main() -> None:
    """Write one table per tube."""
    FOLDER.mkdir(exist_ok=True)
    for voltage_kV, anode_degrees in TUBES:
        energies, fluence, _ = tube_output(SpekpyTube(voltage_kV, anode_degrees))
        header = (
            f"# quantity: unfiltered output of a tungsten tube, {voltage_kV} kV, "
            f"anode angle {anode_degrees} degrees\n"
            f"# source: spekpy {version('spekpy')} (G. Poludniowski et al., Med. Phys. 48 (2021) "
            "3630), made by data/physics/make_spectra.py   licence: MIT\n"
            "energy_keV,fluence_per_cm2_mAs_keV_at_100cm\n"
        )
        rows = zip(energies.tolist(), fluence.tolist(), strict=True)
        table = "".join(f"{e:.1f},{f:.6e}\n" for e, f in rows)
        path = FOLDER / f"tungsten_{voltage_kV}kV_{anode_degrees}deg.csv"
        path.write_text(header + table, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
