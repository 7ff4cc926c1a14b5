"""Figures of a head scanned by pixels that differ: images above thresholds, and decomposed."""

from pathlib import Path

from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_names, read_numbers
from pcctlearn.figures.style import DISPLAY_WINDOWS, new_figure, show_image

_WATER_MG_ML, _CALCIUM_MG_ML, _BRAIN_HU = (900.0, 1150.0), (0.0, 600.0), (-60.0, 140.0)


def images(folder: Path) -> Figure:
    """Images of the counts above the lowest threshold, and their differences from the true head.

    Above: corrected for the hardening of water. Middle and below: for that of bone, too. One column
    for each calibration; the numbers are the largest differences of regions of the brain.
    """
    numbers, names = read_numbers(folder), _names(folder)
    key = next(key for key in numbers if key.startswith("region_difference_HU_"))
    start = key.split(".")[0]
    (true,) = read_arrays(folder, "images/bone/reference")
    figure = new_figure(2.5 * len(names), 7.0)
    axes = figure.subplots(3, len(names), squeeze=False)
    for column, name in enumerate(names):
        water, bone = read_arrays(folder, f"images/water/{name}", f"images/bone/{name}")
        label = name.replace("_", " ")
        for row, (step, image) in enumerate((("water", water), ("bone", bone))):
            difference = numbers[f"{start}.{step}.{name}"]
            title = f"{label}, {step}: {difference:.1f} HU"
            show_image(axes[row, column], image[0], _BRAIN_HU, title, unit="HU")
        error = bone[0] - true[0]
        show_image(axes[2, column], error, DISPLAY_WINDOWS["error"], "error", "RdBu_r", "HU")
    return figure


def decomposed(folder: Path) -> Figure:
    """Water and calcium maps and monoenergetic images, from images corrected for water and bone.

    First column: of the true line integrals. The numbers are the range of calcium, relative to the
    truth, in five sectors of bone.
    """
    numbers = read_numbers(folder)
    names = ["reference", *_names(folder)]
    (vmi,) = read_arrays(folder, "vmi/reference")
    figure = new_figure(2.5 * len(names), 2.3 * (2 + len(vmi)))
    axes = figure.subplots(2 + len(vmi), len(names), squeeze=False)
    energies = [
        key.split("vmi")[1].removesuffix(".true")
        for key in numbers
        if key.startswith("region_difference_HU_vmi") and key.endswith(".true")
    ]
    for column, name in enumerate(names):
        (water, calcium), vmi = read_arrays(folder, f"maps/{name}", f"vmi/{name}")
        label = "true head" if name == "reference" else name.replace("_", " ")
        show_image(axes[0, column], water, _WATER_MG_ML, f"{label}\nwater", unit="mg/mL")
        spread = numbers.get(f"bone_range_percent.{name}")
        title = "calcium" + ("" if spread is None else f", range {spread:.2g} %")
        show_image(axes[1, column], calcium, _CALCIUM_MG_ML, title, unit="mg/mL")
        for row, (energy, image) in enumerate(zip(energies, vmi, strict=True)):
            show_image(axes[2 + row, column], image, _BRAIN_HU, f"{energy} keV", unit="HU")
    return figure


def _names(folder: Path) -> list[str]:
    start = "images/water/"
    names = [name.removeprefix(start) for name in read_names(folder) if name.startswith(start)]
    return sorted(names, key=lambda name: {"uncorrected": 0, "true": 2}.get(name, 1))
