"""Figures of materials separated by pixels that differ: maps of each calibration."""

from pathlib import Path

from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_names, read_numbers
from pcctlearn.figures.style import new_figure, show_image

_WATER_MG_ML, _IODINE_MG_ML = (850.0, 1150.0), (-2.0, 12.0)
_WAYS = {"polynomial": "projections", "images": "images"}


def maps(folder: Path) -> Figure:
    """Water and iodine maps of a noisy scan with nominal pixels and with each calibration.

    Above: polynomials of the projections of every pixel. Below: images of the counts above each
    threshold and a matrix at every voxel. Titles hold the largest errors of rods and of water.
    """
    start = "maps/polynomial/"
    names = [name.removeprefix(start) for name in read_names(folder) if name.startswith(start)]
    numbers = read_numbers(folder)
    key = "iodine_error_max_mg_mL.polynomial."
    names.sort(key=lambda name: -numbers[key + name])
    figure = new_figure(2.5 * len(names), 9.2)
    axes = figure.subplots(4, len(names), squeeze=False)
    for column, name in enumerate(names):
        for row, (way, words) in enumerate(_WAYS.items()):
            ((water, iodine),) = read_arrays(folder, f"maps/{way}/{name}")
            errors = [
                numbers[f"{quantity}.{way}.{name}"]
                for quantity in ("water_error_max_percent", "iodine_error_max_mg_mL")
            ]
            title = f"{name.replace('_', ' ')}, {words}\nwater {errors[0]:.2g} %"
            show_image(axes[2 * row, column], water, _WATER_MG_ML, title, unit="mg/mL")
            title = f"iodine {errors[1]:.2g} mg/mL"
            show_image(axes[2 * row + 1, column], iodine, _IODINE_MG_ML, title, unit="mg/mL")
    return figure
