"""Figures of pixels calibrated on the scan that they make."""

from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_names, read_numbers
from pcctlearn.figures.style import DISPLAY_WINDOWS, new_figure, show_image

_ORDER = ("nominal", "ring_removal", "deviance", "self_calibration", "etb", "hybrid")
_WORDS = {
    "nominal": "nominal, flat field",
    "deviance": "deviance of the bins",
    "self_calibration": "self-calibration",
    "etb": "ETB-Cal, plates",
    "hybrid": "hybrid, plates",
    "true": "true pixels",
}


def images(folder: Path) -> Figure:
    """Monoenergetic images of the noisy scan, and errors of the noise-free scan below.

    One column for each set of pixels. Errors are differences from the true pixels; the numbers are
    the RMS of their rings.
    """
    first = _first(folder)
    columns = [[key] for key in _keys(folder) if key.startswith(f"{first}.")]
    return _drawn(folder, columns, [_word(key) for (key,) in columns])


def cases(folder: Path) -> Figure:
    """The same for other objects and conditions: nominal pixels above, self-calibrated ones below.

    One column for each case. The numbers are the RMS of the rings.
    """
    first, of_cases = _first(folder), defaultdict[str, list[str]](list)
    for key in _keys(folder):
        if not key.startswith(f"{first}."):
            of_cases[key.split(".")[0]].append(key)
    return _drawn(folder, [*of_cases.values()], [case.replace("_", " ") for case in of_cases])


def _drawn(folder: Path, columns: list[list[str]], titles: list[str]) -> Figure:
    """Images and errors of each key of a column, one below the other."""
    numbers = read_numbers(folder)
    energy = next(key for key in numbers if key.startswith("ring_HU_")).split(".")[0]
    keV = energy.removeprefix("ring_HU_").removesuffix("keV")
    n_rows = 2 * max((len(keys) for keys in columns), default=1)
    figure = new_figure(2.4 * max(len(columns), 1), 2.35 * n_rows)
    axes = figure.subplots(n_rows, max(len(columns), 1), squeeze=False)
    for column, (keys, title) in enumerate(zip(columns, titles, strict=True)):
        for row, key in enumerate(keys):
            image, error = (v[0] for v in read_arrays(folder, f"vmi/{key}", f"error/{key}"))
            label = f"{title}\n{keV} keV" if row == 0 else _word(key)
            show_image(axes[2 * row, column], image, DISPLAY_WINDOWS["HU"], label, unit="HU")
            rings = f"rings {numbers[f'{energy}.{key}']:.3g} HU"
            axis = axes[2 * row + 1, column]
            show_image(axis, error, DISPLAY_WINDOWS["error"], rings, "RdBu_r", "HU")
    return figure


def _word(key: str) -> str:
    name = key.split(".")[1]
    return _WORDS.get(name, name.replace("_", " "))


def _keys(folder: Path) -> list[str]:
    keys = [name.removeprefix("vmi/") for name in read_names(folder) if name.startswith("vmi/")]

    def place(key: str) -> tuple[str, int]:
        case, name = key.split(".")
        return case, _ORDER.index(name) if name in _ORDER else len(_ORDER)

    return sorted(keys, key=place)


def _first(folder: Path) -> str:
    """The case that has the true pixels."""
    return next(key.split(".")[0] for key in _keys(folder) if key.endswith(".true"))
