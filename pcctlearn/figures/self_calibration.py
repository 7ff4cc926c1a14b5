"""Figures of pixels calibrated on the scan that they make."""

from pathlib import Path

from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_names, read_numbers
from pcctlearn.figures.style import DISPLAY_WINDOWS, new_figure, show_image

_ORDER = ("nominal", "ring_removal", "deviance", "flatness", "self_calibration", "etb", "hybrid")
_WORDS = {
    "nominal": "nominal, flat field",
    "deviance": "deviance of the bins",
    "flatness": "air and rings",
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
    return _drawn(folder, [key for key in _keys(folder) if key.startswith(f"{_first(folder)}.")])


def cases(folder: Path) -> Figure:
    """The same for other objects and conditions, with nominal pixels and after self-calibration."""
    return _drawn(
        folder, [key for key in _keys(folder) if not key.startswith(f"{_first(folder)}.")], True
    )


def _drawn(folder: Path, keys: list[str], with_case: bool = False) -> Figure:
    numbers = read_numbers(folder)
    energy = next(key for key in numbers if key.startswith("ring_HU_")).split(".")[0]
    keV = energy.removeprefix("ring_HU_").removesuffix("keV")
    columns = max(len(keys), 1)
    figure = new_figure(2.4 * columns, 4.9)
    axes = figure.subplots(2, columns, squeeze=False)
    for column, key in enumerate(keys):
        image, error = (values[0] for values in read_arrays(folder, f"vmi/{key}", f"error/{key}"))
        case, name = key.split(".")
        label = _WORDS.get(name, name.replace("_", " "))
        label = f"{case.replace('_', ' ')}\n{label}" if with_case else label
        show_image(axes[0, column], image, DISPLAY_WINDOWS["HU"], f"{label}\n{keV} keV", unit="HU")
        title = f"rings {numbers[f'{energy}.{key}']:.2g} HU"
        show_image(axes[1, column], error, DISPLAY_WINDOWS["error"], title, "RdBu_r", "HU")
    return figure


def _keys(folder: Path) -> list[str]:
    keys = [name.removeprefix("vmi/") for name in read_names(folder) if name.startswith("vmi/")]

    def place(key: str) -> tuple[str, int]:
        case, name = key.split(".")
        return case, _ORDER.index(name) if name in _ORDER else len(_ORDER)

    return sorted(keys, key=place)


def _first(folder: Path) -> str:
    """The case that has the true pixels."""
    return next(key.split(".")[0] for key in _keys(folder) if key.endswith(".true"))
