"""Figures of the K-edge study: maps, contrast-to-noise ratios, resolution and noise texture."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcctlearn.figures.arrays import read_arrays, read_names, read_words
from pcctlearn.figures.style import DISPLAY_WINDOWS, new_figure, show_image
from pcctlearn.units import MG_ML

_STYLES = ("-", "--", ":", "-.")


def maps(folder: Path) -> Figure:
    """Maps of gadolinium and iodine (mg/mL), one noisy scan each; on the left the truth.

    Rows: detectors. A basis without a material shows it in its other maps.
    """
    detectors, bins, materials = _cases(folder)
    (truth,) = read_arrays(folder, "truth")
    shown = [m for m in ("gadolinium", "iodine") if m in materials]
    names = set(read_names(folder))
    columns = [(m, name) for m in shown for name in bins if _has(names, m, detectors[0], name)]
    figure = new_figure(2.5 * (len(columns) + len(shown)), 2.5 * len(detectors) + 0.3)
    axes = figure.subplots(len(detectors), len(columns) + len(shown), squeeze=False)
    for row, detector in zip(axes, detectors, strict=True):
        panels = iter(row)
        for material in shown:
            window = [MG_ML * limit for limit in DISPLAY_WINDOWS[material]]
            ax = next(panels)
            show_image(ax, truth[materials.index(material)], window, f"{material}, truth")
            for name in (name for m, name in columns if m == material):
                (image,) = read_arrays(folder, f"map/{material}/{detector}_{name}")
                show_image(next(panels), image, window, _title(detector, name))
    return figure


def cnr_over_energy(folder: Path) -> Figure:
    """Contrast-to-noise ratio of the densest inserts in monoenergetic images, by detector.

    Contrast is the difference of the means of insert and brain, noise the standard deviation of a
    voxel of the brain over repeated scans.
    """
    detectors, bins, _ = _cases(folder)
    inserts = read_words(folder, "inserts")
    (energies,) = read_arrays(folder, "vmi_keV")
    densest = list({name.partition("_")[0]: name for name in inserts}.values())
    figure = new_figure(3.6 * len(densest), 3.4)
    axes = figure.subplots(1, len(densest), squeeze=False)[0]
    for ax, insert in zip(axes, densest, strict=True):
        for number, detector in enumerate(detectors):
            for style, name in zip(_STYLES, bins, strict=False):
                (cnr,) = read_arrays(folder, f"cnr/{insert}/{detector}_{name}")
                label = _title(detector, name)
                ax.plot(energies, cnr, style, color=f"C{number}", label=label, lw=1.3)
        ax.set(xlabel="energy (keV)", yscale="log")
        ax.set_title(insert.replace("_", " ") + " mg/mL")
    axes[0].set_ylabel("contrast-to-noise ratio")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def resolution_and_noise(folder: Path) -> Figure:
    """Map of the last basis material: MTF of its densest insert, noise power of the brain.

    The MTF is that of maps without noise; the noise power spectrum is over its integral.
    """
    detectors, bins, _ = _cases(folder)
    names = set(read_names(folder))
    figure = new_figure(9.0, 3.8)
    left, right = figure.subplots(1, 2)
    for number, detector in enumerate(detectors):
        for style, name in zip(_STYLES, bins, strict=False):
            look = {"ls": style, "color": f"C{number}", "lw": 1.3}
            if f"mtf/{detector}_{name}" in names:
                _draw(left, folder, "mtf", f"{detector}_{name}", look, _title(detector, name))
            _draw(right, folder, "nps", f"{detector}_{name}", look, _title(detector, name))
    left.set(xlabel="spatial frequency (1/cm)", ylabel="MTF", ylim=(0, None))
    right.set(xlabel="spatial frequency (1/cm)", ylabel="noise power / its sum", ylim=(0, None))
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _draw(ax: Axes, folder: Path, kind: str, case: str, look: dict, label: str) -> None:
    frequencies, values = read_arrays(folder, f"{kind}_per_cm/{case}", f"{kind}/{case}")
    ax.plot(frequencies, values / values.sum() if kind == "nps" else values, label=label, **look)


def _cases(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Detectors, names of the bins, and materials of the phantom."""
    detectors, bins, materials = (
        read_words(folder, name) for name in ("detectors", "bins", "truth_materials")
    )
    return detectors, bins, materials


def _has(names: set[str], material: str, detector: str, bins: str) -> bool:
    return f"map/{material}/{detector}_{bins}" in names


def _title(detector: str, bins: str) -> str:
    return f"{detector}, {bins.replace('_', ' ')}"
