"""Bias, noise and speed of decompositions: maximum likelihood, closed forms, and a proxy."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.console import without_warnings
from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.proxy import ProxyDecomposition
from pcctlearn.decomposition.sensitivity import cramer_rao_bound
from pcctlearn.figures.arrays import as_array
from pcctlearn.metrics.errors import Rows, rms
from pcctlearn.physics.attenuation import area_density_g_cm2, density_g_cm3
from pcctlearn.physics.noise import draw_counts, generator_of
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.shapes import RayLineIntegrals, channels_first, channels_last
from pcctlearn.studies.layer_speed import TASKS, of_layer, rays_per_second
from pcctlearn.validation import require_finite, require_positive

Numbers = dict[str, float]
Arrays = dict[str, Tensor | np.ndarray]
Layers = dict[str, Decomposition]

_BRIGHT = 25.0  # expected counts in every bin from which on a bound is meaningful


class DecompositionComparison:
    """Decompose the same counts in several ways, without noise and with that of several exposures.

    Errors are taken at a lattice of area densities in each range. Bias is the RMS over the lattice
    of the mean error of all draws of the noise, after subtraction of its expected variance; noise
    is the RMS of the standard deviation over the Cramér–Rao bound. Points where a bin expects fewer
    than 25 counts are left out. Rays that a layer does not converge on count with the values that
    it returns. All layers are timed in turns, in float32, on the same noisy counts.

    Args:
        model: the scanner, with two basis materials.
        decompositions: {name: constructor of the layer for a model}.
        ranges_cm: {name: {material: (least, largest thickness)}}.
        photons: exposures, photons that reach a pixel without an object.
        proxy: file of a trained proxy, which is compared as well.
        n_side: number of thicknesses of each material, of the lattice with noise.
        n_draws: number of draws of the noise at each point.
        n_map: number of thicknesses of each material without noise.
        n_timed: number of rays for the times.
        n_repeats: number of times each layer is timed.
        seed: seed of the noise.
    """

    def __init__(
        self,
        model: SpectralModel,
        decompositions: Mapping[str, Callable[[SpectralModel], Decomposition]],
        ranges_cm: Mapping[str, Mapping[str, Sequence[float]]],
        photons: Sequence[float] = (1e4, 1e5, 1e6),
        proxy: str | None = None,
        n_side: int = 9,
        n_draws: int = 5000,
        n_map: int = 61,
        n_timed: int = 200_000,
        n_repeats: int = 3,
        seed: int = 0,
    ) -> None:
        require_positive(n_side=n_side, n_map=n_map, n_timed=n_timed, n_repeats=n_repeats)
        if n_draws < 2:
            raise ValueError(f"n_draws must be 2 or more, got {n_draws}")
        if not ranges_cm:
            raise ValueError("ranges_cm is empty: leave out study.ranges_cm, or give a range")
        self.exposures = _by_label(photons)
        if len(model.materials) != 2:
            raise ValueError(
                f"the error maps need two basis materials, got {','.join(model.materials)}: use "
                "physics.materials=[water,calcium]"
            )
        for name, limits in ranges_cm.items():
            if set(limits) != set(model.materials):
                raise ValueError(
                    f"ranges_cm.{name} names {', '.join(limits)}: give "
                    f"{' and '.join(model.materials)}"
                )
            for material, limit in limits.items():
                _require_range(f"ranges_cm.{name}.{material}", limit)
        self.model = model.requires_grad_(False)
        self.builders = dict(decompositions)
        if proxy is not None:
            self.builders["proxy"] = partial(
                ProxyDecomposition, weights=proxy, setting="study.proxy"
            )
        self._layers(self.model)  # rejects wrong settings before the run
        self.ranges_cm = ranges_cm
        self.n_side, self.n_draws, self.n_map = n_side, n_draws, n_map
        self.n_timed, self.n_repeats, self.seed = n_timed, n_repeats, seed
        self._require_bright()

    def run(self, context: Context) -> StudyResults:
        """Measure errors without noise, errors with noise, and times."""
        with without_warnings():  # of rays outside a range, which the tables count
            return self._run()

    def _run(self) -> StudyResults:
        numbers: Numbers = {"n_threads": float(torch.get_num_threads())}
        arrays: Arrays = {
            "materials": as_array(self.model.materials),
            "methods": as_array(list(self.builders)),
            "ranges": as_array(list(self.ranges_cm)),
            "exposures": as_array(list(self.exposures)),
            "photons": np.array(list(self.exposures.values())),
        }
        for name in self.ranges_cm:
            numbers |= self.clean_errors(name, arrays)
        for exposure in self.exposures:
            for name in self.ranges_cm:
                numbers |= self.noisy_errors(name, exposure)
                numbers |= self.speeds(name, exposure)
        return self.report(numbers, arrays)

    def clean_errors(self, name: str, arrays: Arrays) -> Numbers:
        """RMS errors of expected counts; the errors themselves are added to the arrays."""
        axes, A = self._lattice(name, self.n_map)
        counts = channels_first(self.model(A)[None]).float()
        arrays |= {
            f"{name}/{m}_cm": axis for m, axis in zip(self.model.materials, axes, strict=True)
        }
        numbers: Numbers = {}
        for method, layer in self._layers(self.model).items():
            error = self._cm(channels_last(layer(counts).x)[0] - A)
            for m, of_m in zip(self.model.materials, error.unbind(-1), strict=True):
                numbers[f"{name}_{m}_clean_rmse_cm.{method}"] = rms(of_m)
                arrays[f"{name}/{m}_error_cm.{method}"] = of_m
        return numbers

    def noisy_errors(self, name: str, exposure: str) -> Numbers:
        """Bias, noise over its bound, and rays that are not converged, at one exposure."""
        model = self._exposed(self.exposures[exposure])
        A = self._bright(name, exposure)
        expected = model(A)
        share = 100 * len(A) / self.n_side**2
        numbers: Numbers = {f"{name}_bright_percent_{exposure}": share}
        generator = generator_of(self.seed, f"comparison {name} {exposure}")
        drawn = draw_counts(expected[:, None].expand(-1, self.n_draws, -1), generator)
        counts = channels_first(drawn[None]).float()
        bound = cramer_rao_bound(A, model.spectra(), model.attenuation)
        sd = self._cm(bound.diagonal(dim1=-2, dim2=-1).sqrt())
        for m, of_m in zip(self.model.materials, sd.unbind(-1), strict=True):
            numbers[f"{name}_{m}_crlb_cm_{exposure}"] = rms(of_m)
        for method, layer in self._layers(model).items():
            with torch.no_grad():
                x, converged = layer(counts)
            error = self._cm(channels_last(x)[0].double() - A[:, None])
            variance, mean = torch.var_mean(error, 1)
            bias = (mean.square() - variance / self.n_draws).mean(0).clamp(min=0).sqrt()
            noise = (variance / sd.square()).mean(0).sqrt()
            for m, b, r in zip(self.model.materials, bias.tolist(), noise.tolist(), strict=True):
                numbers[f"{name}_{m}_bias_cm_{exposure}.{method}"] = b
                numbers[f"{name}_{m}_sd_over_crlb_{exposure}.{method}"] = r
            share = 100 * float((~converged).double().mean())
            numbers[f"{name}_not_converged_percent_{exposure}.{method}"] = share
        return numbers

    def speeds(self, name: str, exposure: str) -> Numbers:
        """Median rays per second of each layer on noisy counts, uniform in the range."""
        model = self._exposed(self.exposures[exposure])
        low, high = self._limits(name)
        generator = generator_of(self.seed, f"comparison times {name} {exposure}")
        A = low + (high - low) * torch.rand(self.n_timed, 2, generator=generator).to(low)
        counts = channels_first(draw_counts(model(A), generator)[None, None]).float()
        layers = self._layers(model).items()
        found = rays_per_second({m: of_layer(layer, counts, self.n_repeats) for m, layer in layers})
        return {
            f"{name}_{task}_rays_per_second_{exposure}.{method}": found[
                f"{method}_{task}_rays_per_second"
            ]
            for task in TASKS
            for method in self.builders
        }

    def report(self, numbers: Numbers, arrays: Arrays) -> StudyResults:
        """Numbers, arrays, figures and tables."""
        tables = [
            table(numbers, name)
            for name in self.ranges_cm
            for table in (self._bias_table, self._noise_table, self._speed_table)
        ]
        return StudyResults(
            numbers,
            arrays,
            ["decomposition_comparison.bias_and_noise", "decomposition_comparison.clean_errors"],
            f"{len(self.builders)} decompositions of the same counts at "
            f"{', '.join(self.exposures)} photons; {self.n_draws} draws of noise at each point.",
            tables=tables,
            tabulated=[name for name in numbers if name.rpartition(".")[2] in self.builders],
        )

    def _bias_table(self, numbers: Numbers, name: str) -> Rows:
        """Errors without noise, and bias at each exposure, of all methods and materials."""
        limits = ", ".join(
            f"{m} {low:g} … {high:g} cm" for m, (low, high) in self.ranges_cm[name].items()
        )
        columns = {}
        for m in self.model.materials:
            columns[f"{m}, no noise"] = f"{name}_{m}_clean_rmse_cm.{{}}"
            columns |= {f"{m}, {e}": f"{name}_{m}_bias_cm_{e}.{{}}" for e in self.exposures}
        return self._table(f"Bias (cm), RMS over {name}: {limits}", columns, numbers, ".2g")

    def _noise_table(self, numbers: Numbers, name: str) -> Rows:
        """Noise over its bound, and shares of rays that are not converged."""
        columns = {
            f"{m}, {e}": f"{name}_{m}_sd_over_crlb_{e}.{{}}"
            for m in self.model.materials
            for e in self.exposures
        }
        share = "% not converged, {}"
        columns |= {
            share.format(e): f"{name}_not_converged_percent_{e}.{{}}" for e in self.exposures
        }
        return self._table(f"Noise over its bound, {name}", columns, numbers, ".3g")

    def _speed_table(self, numbers: Numbers, name: str) -> Rows:
        """Million rays per second."""
        words = dict(zip(TASKS, ("forward", "with gradient"), strict=True))
        columns = {
            f"{words[task]}, {e}": f"{name}_{task}_rays_per_second_{e}.{{}}"
            for task in TASKS
            for e in self.exposures
        }
        title = f"Million rays/s, {name}, float32, {numbers['n_threads']:.0f} threads"
        return self._table(title, columns, numbers, ".2f", 1e-6)

    def _table(
        self,
        title: str,
        columns: Mapping[str, str],
        numbers: Numbers,
        digits: str,
        unit: float = 1.0,
    ) -> Rows:
        """Methods by columns {heading: name of the number, with {} for the method}."""
        rows = [
            [
                method.replace("_", " "),
                *(f"{unit * numbers[key.format(method)]:{digits}}" for key in columns.values()),
            ]
            for method in self.builders
        ]
        return Rows(title, ["decomposition", *columns], rows)

    def _layers(self, model: SpectralModel) -> Layers:
        return {name: build(model) for name, build in self.builders.items()}

    def _exposed(self, photons: float) -> SpectralModel:
        """The scanner at another exposure."""
        model = deepcopy(self.model)
        model.fluence = model.fluence * (photons / model.fluence.sum(-1, keepdim=True))
        return model

    def _bright(self, name: str, exposure: str) -> RayLineIntegrals:
        """Area densities of the lattice where every bin expects enough counts."""
        A = self._lattice(name, self.n_side)[1].flatten(0, 1)
        expected = self._exposed(self.exposures[exposure])(A)
        return A[(expected >= _BRIGHT).all(-1)]

    def _require_bright(self) -> None:
        """Raise ValueError for an exposure at which no point of some range is bright."""
        alone = self._exposed(1.0)
        most = {
            name: float(alone(self._lattice(name, self.n_side)[1]).amin(-1).max())
            for name in self.ranges_cm
        }
        darkest = min(most, key=lambda name: most[name])
        least = _BRIGHT / most[darkest]
        for exposure in self.exposures:
            if not len(self._bright(darkest, exposure)):
                raise ValueError(
                    f"no ray of ranges_cm.{darkest} expects {_BRIGHT:g} counts in every bin at "
                    f"{exposure} photons: use study.photons of {1.1 * least:.2g} or more, or lower "
                    "ranges_cm"
                )

    def _limits(self, name: str) -> Float[Tensor, "2 material"]:
        """Least and largest area densities in g/cm²."""
        limits = torch.tensor(
            [list(self.ranges_cm[name][m]) for m in self.model.materials]
        ).double()
        sides = [
            area_density_g_cm2(side, m)
            for side, m in zip(limits, self.model.materials, strict=True)
        ]
        return torch.stack(sides, -1)

    def _lattice(
        self, name: str, n: int
    ) -> tuple[list[Tensor], Float[Tensor, "first second material"]]:
        """Thicknesses in cm along the axes, and area densities in g/cm² at the points."""
        low, high = self._limits(name)
        along = torch.linspace(0, 1, n).double()[:, None] * (high - low) + low
        A = torch.cartesian_prod(*along.unbind(-1)).reshape(n, n, 2)
        return list(self._cm(along).unbind(-1)), A

    def _cm(self, area_densities: Tensor) -> Tensor:
        return area_densities / area_densities.new_tensor(
            [density_g_cm3(m) for m in self.model.materials]
        )


def _by_label(photons: Sequence[float]) -> dict[str, float]:
    """{1.2e5: photons}, with six digits."""
    if not photons:
        raise ValueError("photons is empty: use study.photons=[1e4,1e5,1e6]")
    require_positive(**{f"photons[{i}]": value for i, value in enumerate(photons)})
    parts = [f"{value:.5e}".split("e") for value in photons]
    labels = [f"{float(digits):g}e{int(exponent)}" for digits, exponent in parts]
    if len(set(labels)) < len(labels):
        different = ",".join(dict.fromkeys(labels))
        raise ValueError(f"photons are equal in six digits: use study.photons=[{different}]")
    return dict(zip(labels, photons, strict=True))


def _require_range(name: str, limits: Sequence[float]) -> None:
    if len(limits) != 2:
        raise ValueError(
            f"{name} has {len(limits)} numbers: use study.{name}=[LEAST,LARGEST] in cm"
        )
    for limit in limits:
        require_finite(**{name: limit})
    low, high = limits
    if not low < high:
        raise ValueError(
            f"{name}=[{low:g},{high:g}] does not increase: use study.{name}=[LEAST,LARGEST] in cm"
        )
