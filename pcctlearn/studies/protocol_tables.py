"""Tables of protocols of equal dose and of their noise."""

from collections.abc import Mapping

from pcctlearn.decomposition.protocol import Protocol
from pcctlearn.metrics.errors import Rows

Numbers = dict[str, float]

DEFAULT = "default"
DESIGNS = ("thresholds", "thresholds_and_kV", "thresholds_kV_and_filter")
ROWS = (DEFAULT, "equal_widths", "equal_counts", "kV_alone", *DESIGNS)
_TITLES = {
    DEFAULT: "default thresholds",
    "equal_widths": "bins of equal width",
    "equal_counts": "bins of equal counts",
    "kV_alone": "default thresholds, best kV",
    "thresholds": "designed thresholds",
    "thresholds_and_kV": "designed thresholds, kV",
    "thresholds_kV_and_filter": "designed thresholds, kV, filter",
}
_SETTINGS = {
    "tube load": ("tube_load", ".2f"),
    "dose (mGy)": ("dose_mGy", ".1f"),
    "photons a pixel": ("photons", ".2e"),
}
_NOISE = {
    "bound of a ray (mg/cm²)": ("bound_mg_cm2", ".3g"),
    "bound / default": ("relative_bound", ".3f"),
    "sd of a ray (mg/cm²)": ("ray_sd_mg_cm2", ".3g"),
    "ray / default": ("relative_ray_sd", ".3f"),
    "sd of a voxel (mg/mL)": ("voxel_sd_mg_mL", ".3g"),
    "voxel / default": ("relative_voxel_sd", ".3f"),
    "bias (mg/mL)": ("insert_bias_mg_mL", ".2g"),
}


def settings_table(protocols: Mapping[str, Protocol], numbers: Numbers) -> Rows:
    """Tube voltage, thresholds, filter, tube load and dose of the protocols."""
    rows = [
        [_TITLES[row], str(protocol), *_cells(row, _SETTINGS, numbers)]
        for row, protocol in protocols.items()
    ]
    return Rows("Protocols of equal dose", ["protocol", "tube and thresholds", *_SETTINGS], rows)


def noise_table(material: str, protocols: Mapping[str, Protocol], numbers: Numbers) -> Rows:
    """Bound, noise of rays and of slices, relative to the default; bias of the insert."""
    rows = [[_TITLES[row], *_cells(row, _NOISE, numbers)] for row in protocols]
    return Rows(f"Noise of {material} at equal dose", ["protocol", *_NOISE], rows)


def _cells(row: str, columns: Mapping[str, tuple[str, str]], numbers: Numbers) -> list[str]:
    return [
        f"{numbers[f'{key}.{row}']:{form}}" if f"{key}.{row}" in numbers else ""
        for key, form in columns.values()
    ]
