"""Table of errors by metric, method and scan, and the names of errors in result files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

UNCORRECTED, CORRECTED, NOISE_ALONE = "uncorrected", "corrected", "noise_alone"
_NOISY = "noisy_"
_UNITS = {
    "_percent": "%",
    "_rmse_cm": "cm",
    "_rmse_mg_mL": "mg/mL",
    "_rmse_HU": "HU",
    "_error_g_cm2": "g/cm²",
    "_error_mg_mL": "mg/mL",
    "_error_HU": "HU",
}

Arrays = Mapping[str, np.ndarray]


def rms(values: Tensor) -> float:
    """√(mean of values²), accumulated in float64."""
    return values.double().square().mean().sqrt().item()


class Metric(NamedTuple):
    """Key of an error, and whether the counts had Poisson noise."""

    key: str
    noisy: bool = False

    @property
    def name(self) -> str:
        """Name in results.json and arrays.h5."""
        return _NOISY + self.key if self.noisy else self.key

    @property
    def quantity(self) -> str:
        """Quantity, unit and method, such as "projection water (cm)" and "VMI 60 keV (HU), rms"."""
        stem, _, method = self.key.rpartition(".")
        for name, last in ((self.key, ""), (stem, f", {method}")):
            for end, unit in _UNITS.items():
                if name.endswith(end):
                    words = name.removesuffix(end).replace("_", " ")
                    words = re.sub(r"^vmi([\d.]+)", r"VMI \1 keV", words).replace("spr", "SPR")
                    return f"{words} ({unit}){last}".replace("_", " ")
        return self.key

    @property
    def label(self) -> str:
        """Text for summaries and figures: the quantity, and whether there is noise."""
        return self.quantity + (", with noise" if self.noisy else "")

    @classmethod
    def named(cls, name: str) -> "Metric":
        """The metric with this name."""
        return cls(name.removeprefix(_NOISY), name.startswith(_NOISY))


class Rows(NamedTuple):
    """A printable table; the first column holds labels."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class ErrorTable:
    """``values`` {(metric, method): (scan)}.

    Methods of a scatter correction, which ``summary`` and ``tables`` are for, are "uncorrected",
    "corrected", "noise_alone" (scatter-free counts with Poisson noise), and the names of baselines.
    Other tables have methods of their own; those of a comparison are settings.
    """

    values: dict[tuple[Metric, str], np.ndarray] = field(default_factory=dict)

    def add(self, method: str, errors: Mapping[str, float], noisy: bool = False) -> None:
        """Add the errors {key: value} of a scan."""
        for key, value in errors.items():
            self._append(Metric(key, noisy), method, np.array([value]))

    def extend(self, other: "ErrorTable") -> None:
        """Add the scans of another table."""
        for (metric, method), values in other.values.items():
            self._append(metric, method, values)

    def of(self, method: str) -> dict[Metric, np.ndarray]:
        """{metric: (scan)} of one method."""
        return {metric: values for (metric, name), values in self.values.items() if name == method}

    @property
    def metrics(self) -> list[Metric]:
        """In the order in which they were added."""
        return list(dict.fromkeys(metric for metric, _ in self.values))

    @property
    def methods(self) -> list[str]:
        """In the order in which they were added."""
        return list(dict.fromkeys(method for _, method in self.values))

    @property
    def image_metrics(self) -> list[Metric]:
        """Errors of monoenergetic images."""
        return [metric for metric in self.metrics if metric.key.startswith("vmi")]

    def share(self, metric: Metric, method: str = CORRECTED) -> float:
        """Mean error over that without correction."""
        return float(
            np.mean(self.values[metric, method]) / np.mean(self.values[metric, UNCORRECTED])
        )

    def summary(self) -> dict[str, float]:
        """Errors due to scatter: means over the scans, and ratios to the uncorrected errors.

        Standard deviations are those of a sample, and omitted for a single scan. Baselines have
        only the ratios.
        """
        numbers = {}
        for metric, before in self.of(UNCORRECTED).items():
            name = metric.name
            numbers[f"{name}_{UNCORRECTED}"] = float(np.mean(before))
            if (after := self.values.get((metric, CORRECTED))) is not None:
                numbers[name] = float(np.mean(after))
                if len(after) > 1:
                    numbers[f"{name}_sd"] = float(np.std(after, ddof=1))
                numbers[f"{name}_over_{UNCORRECTED}"] = self.share(metric)
            for method in self._baselines(metric):
                numbers[f"{name}_{method}_over_{UNCORRECTED}"] = self.share(metric, method)
            if (alone := self.values.get((metric, NOISE_ALONE))) is not None:
                numbers[f"{name}_of_{NOISE_ALONE}"] = float(np.mean(alone))
        return numbers

    def tables(self) -> list[Rows]:
        """The numbers of ``summary`` as tables without and with noise: metrics by methods."""
        titles = {False: "errors due to scatter", True: "errors due to scatter and noise"}
        found = [
            self._rows(f"{title}: mean ± standard deviation over the scans", noisy)
            for noisy, title in titles.items()
        ]
        return [table for table in found if table.rows]

    def _rows(self, title: str, noisy: bool) -> Rows:
        before = {m: values for m, values in self.of(UNCORRECTED).items() if m.noisy == noisy}
        held = {name for metric, name in self.values if metric in before}
        baselines = sorted({b for metric in before for b in self._baselines(metric)})
        means = [m for m in (UNCORRECTED, CORRECTED, NOISE_ALONE) if m in held]
        shares = [b for b in (CORRECTED, *baselines) if b in held]
        rows = [
            [
                metric.quantity,
                *(mean_and_sd(self.values.get((metric, method))) for method in means),
                *(
                    f"{self.share(metric, m):.2f}" if (metric, m) in self.values else ""
                    for m in shares
                ),
            ]
            for metric in before
        ]
        named = ["share left" if m == CORRECTED else f"share left, {m}" for m in shares]
        return Rows(title, ["error", *(m.replace("_", " ") for m in means), *named], rows)

    def means(self, suffix: str = "") -> dict[str, float]:
        """Numbers of a comparison: ``<metric><suffix>.<method>``, and its ``.sd`` where defined."""
        numbers = {}
        for (metric, method), values in self.values.items():
            name = f"{metric.name}{suffix}.{method}"
            numbers[name] = float(np.mean(values))
            if len(values) > 1:
                numbers[f"{name}.sd"] = float(np.std(values, ddof=1))
        return numbers

    def side_by_side(self, methods: Sequence[str], title: str, suffix: str = "") -> Rows:
        """The numbers of ``means`` as a table: metrics by methods."""
        rows = [
            [metric.label + suffix, *(mean_and_sd(self.values.get((metric, m))) for m in methods)]
            for metric in self.metrics
        ]
        return Rows(title, ["result", *(method.replace("_", " ") for method in methods)], rows)

    def by_method(self) -> dict[str, dict[str, float]]:
        """{method: {metric: mean over the scans}}, by name."""
        return {
            method: {metric.name: float(np.mean(v)) for metric, v in self.of(method).items()}
            for method in self.methods
        }

    def to_arrays(self, group: str = "errors") -> dict[str, np.ndarray]:
        """``<group>/<metric>.<method>`` (scan), for arrays.h5."""
        return {
            f"{group}/{metric.name}.{method}": values
            for (metric, method), values in self.values.items()
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays, group: str = "errors") -> "ErrorTable":
        """The table in the output of ``to_arrays``, which may contain other arrays."""
        table = cls()
        for path, values in arrays.items():
            parent, _, name = path.partition("/")
            if parent == group:
                metric, _, method = name.partition(".")  # a method may have points in its name
                table.values[Metric.named(metric), method] = values
        return table

    def _append(self, metric: Metric, method: str, values: np.ndarray) -> None:
        before = self.values.get((metric, method), np.empty(0))
        self.values[metric, method] = np.concatenate([before, values])

    def _baselines(self, metric: Metric) -> list[str]:
        """Names of the baselines of a metric, sorted."""
        known = {UNCORRECTED, CORRECTED, NOISE_ALONE}
        return sorted(m for m in self.methods if m not in known and (metric, m) in self.values)


def mean_and_sd(values: np.ndarray | None) -> str:
    """Text such as "1.2 ± 0.1": mean and standard deviation of a sample; empty without values."""
    if values is None:
        return ""
    spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return f"{np.mean(values):.4g}{spread}"
