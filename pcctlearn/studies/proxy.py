"""Train a proxy of the decomposition, and measure its errors and its speed."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pcctlearn.decomposition.base import Decomposition
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.decomposition.proxy import ProxyDecomposition
from pcctlearn.decomposition.proxy_file import save_proxy
from pcctlearn.decomposition.proxy_network import ProxyNetwork
from pcctlearn.figures.arrays import as_array
from pcctlearn.losses.sobolev import SobolevLoss, SobolevTarget, jacobian_of, relative_errors
from pcctlearn.metrics.errors import Rows, rms
from pcctlearn.physics.attenuation import thickness_cm
from pcctlearn.physics.noise import generator_of
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.runs.context import Context
from pcctlearn.runs.results import StudyResults
from pcctlearn.shapes import channels_first
from pcctlearn.studies.layer_speed import TASKS, of_layer, rays_per_second
from pcctlearn.training.proxy_module import FittedProxy
from pcctlearn.training.proxy_rays import ProxyRays
from pcctlearn.validation import require_positive

Numbers = dict[str, float]
Arrays = dict[str, Tensor | np.ndarray]

# of judged rays: uniform in the box, near its lower limits, with noise and scatter
_KINDS = {"": {}, "thin_": {"thin_share": 1.0}, "noisy_": {"clean_share": 0.0}}
_LAYERS = ("exact", "proxy")
_N_REPEATS = 5


class ProxyStudy:
    """Train a proxy, write it to ``proxy.pt``, and compare it with the exact decomposition.

    Errors are differences from the maximum-likelihood decomposition of the same counts, on rays
    that are neither training nor validation rays: expected counts, uniform in the box or mostly
    near its lower limits ("thin"), and counts with noise and scatter ("noisy"), without those whose
    exact decomposition lies outside the box. Both layers are timed in turns, in float32, on the
    same counts.

    Args:
        model: the scanner.
        decomposition: constructor of the exact layer, for the times.
        rays: constructor of ``ProxyRays``, called with the model.
        loss: Sobolev loss of the training.
        training: trains a network, as ``fit_proxy`` does.
        n_judged: number of rays for each kind of error.
        n_map: number of area densities of each material in the error maps.
        n_timed: number of rays for the times.
        seed: seed of rays and weights.
    """

    def __init__(
        self,
        model: SpectralModel,
        decomposition: Callable[[SpectralModel], Decomposition],
        rays: Callable[[SpectralModel], ProxyRays],
        loss: SobolevLoss,
        training: Callable[..., FittedProxy],
        n_judged: int = 50_000,
        n_map: int = 101,
        n_timed: int = 200_000,
        seed: int = 0,
    ) -> None:
        require_positive(n_judged=n_judged, n_map=n_map, n_timed=n_timed)
        if len(model.materials) != 2:
            raise ValueError(
                f"the error maps need two basis materials, got {','.join(model.materials)}: use "
                "physics.materials=[water,calcium]"
            )
        self.model, self.rays, self.loss, self.training = model, rays(model), loss, training
        self.exact = decomposition(model)
        if not isinstance(self.exact, MaximumLikelihood):
            raise TypeError(
                "a proxy is compared with the exact layer: use decomposition=maximum_likelihood, "
                f"got {type(self.exact).__name__}"
            )
        self.n_judged, self.n_map, self.n_timed, self.seed = n_judged, n_map, n_timed, seed

    @property
    def result_names(self) -> list[str]:
        """Names of the numbers that ``run`` returns."""
        errors = [
            f"{kind}{name}"
            for kind in _KINDS
            for m in self.model.materials
            for name in (
                f"{m}_rmse_cm",
                f"{m}_rmse_g_cm2",
                f"{m}_jacobian_relative_error_median",
                f"{m}_jacobian_relative_error_p95",
            )
        ]
        speeds = [f"{layer}_{task}_rays_per_second" for layer in _LAYERS for task in TASKS]
        fitted = ["val_loss", "epochs", "training_seconds"]
        return [*errors, "noisy_outside_range_percent", *speeds, "n_threads", "n_weights", *fitted]

    def run(self, context: Context) -> StudyResults:
        """Train, write the network, and measure."""
        found = self.training(self.rays, self.loss, context.trainer, seed=self.seed)
        path = context.folder / "proxy.pt"
        save_proxy(path, found.network, self.model)
        proxy = ProxyDecomposition(self.model, str(path))
        errors, arrays = self.errors(proxy.network)
        numbers = {
            **errors,
            **self.speeds(proxy),
            "n_threads": float(torch.get_num_threads()),
            "n_weights": float(sum(w.numel() for w in proxy.network.parameters())),
            **found.numbers,
        }
        return self.report(numbers, arrays)

    def errors(self, network: ProxyNetwork) -> tuple[Numbers, Arrays]:
        """Errors of values and derivatives on new rays, and over a grid of the box."""
        numbers: Numbers = {}
        for kind, shares in _KINDS.items():
            generator = generator_of(self.seed, f"proxy judging {kind}")
            target = self.rays.draw(self.n_judged, generator, **shares)
            values, jacobian = _errors(network, target)
            for i, m in enumerate(self.model.materials):
                numbers |= {
                    f"{kind}{m}_rmse_cm": rms(thickness_cm(values[:, i], m)),
                    f"{kind}{m}_rmse_g_cm2": rms(values[:, i]),
                    f"{kind}{m}_jacobian_relative_error_median": float(jacobian[:, i].median()),
                    f"{kind}{m}_jacobian_relative_error_p95": float(jacobian[:, i].quantile(0.95)),
                }
        inside = network.within(target.log_counts, target.line_integrals)
        numbers["noisy_outside_range_percent"] = 100 * float(
            (~(inside[0] & inside[1])).double().mean()
        )
        return numbers, self._maps(network)

    def _maps(self, network: ProxyNetwork) -> Arrays:
        """Errors over a grid of the box; NaN where the exact layer has no solution."""
        low, high = self.rays.limits
        axes = [
            torch.linspace(float(a), float(b), self.n_map).double()
            for a, b in zip(low, high, strict=True)
        ]
        target, kept = self.rays.target(self.rays.clean(torch.cartesian_prod(*axes)))
        errors = _errors(network, SobolevTarget(*(part.float() for part in target)))
        maps = [torch.full((len(kept), 2), torch.nan).double() for _ in errors]
        for whole, part in zip(maps, errors, strict=True):
            whole[kept] = part.double()
        shape = (self.n_map, self.n_map)
        arrays: Arrays = {"map/materials": as_array(self.model.materials)}
        for i, m in enumerate(self.model.materials):
            arrays[f"map/{m}_cm"] = thickness_cm(axes[i], m)
            arrays[f"map/{m}_error_cm"] = thickness_cm(maps[0][:, i], m).reshape(shape)
            arrays[f"map/{m}_jacobian_error"] = maps[1][:, i].reshape(shape)
        return arrays

    def speeds(self, proxy: ProxyDecomposition) -> Numbers:
        """Median rays per second of both layers, in turns, on expected counts within the box."""
        self.model.requires_grad_(False)  # a gradient in the counts alone
        A = self.rays.uniform(self.n_timed, generator_of(self.seed, "proxy timing")).clamp(min=0)
        counts = channels_first(self.model(A).detach().float()[None, None])
        layers = {"exact": self.exact, "proxy": proxy}
        return rays_per_second(
            {name: of_layer(layer, counts, _N_REPEATS) for name, layer in layers.items()}
        )

    def report(self, numbers: Numbers, arrays: Arrays) -> StudyResults:
        """Numbers, arrays, figures and the table of speeds."""
        speeds = [f"{layer}_{task}_rays_per_second" for layer in _LAYERS for task in TASKS]
        labels = ("maximum likelihood", "proxy")
        table = Rows(
            f"Million rays/s, float32, {numbers['n_threads']:.0f} threads",
            ("decomposition", "forward", "forward and gradient in counts"),
            [
                (label, *(f"{numbers[f'{layer}_{t}_rays_per_second'] / 1e6:.2f}" for t in TASKS))
                for layer, label in zip(_LAYERS, labels, strict=True)
            ],
        )
        box = _in_words(self.model.materials, self.rays.limits.T.tolist())
        return StudyResults(
            numbers,
            arrays,
            ["proxy.value_errors", "proxy.jacobian_errors"],
            f"Proxy trained in {numbers['training_seconds']:.0f} s for {box}; "
            f"{len(self.model.energies_keV)} energies, {self.model.thresholds.n_bins} bins. Use it "
            "with decomposition=proxy decomposition.weights=RUN/proxy.pt.",
            tables=[table],
            tabulated=speeds,
        )


def _errors(
    network: ProxyNetwork, target: SobolevTarget
) -> tuple[Float[Tensor, "ray material"], Float[Tensor, "ray material"]]:
    """Errors of the line integrals in g/cm², and relative errors of the rows of the Jacobian."""
    with torch.no_grad():
        A, jacobian = jacobian_of(network, target.log_counts)
    return A - target.line_integrals, relative_errors(jacobian, target.jacobian)


def _in_words(materials: Sequence[str], limits: Sequence[Sequence[float]]) -> str:
    return ", ".join(
        f"{name} {low:g} … {high:g} g/cm²"
        for name, (low, high) in zip(materials, limits, strict=True)
    )
