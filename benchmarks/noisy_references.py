"""Where losses against a reference with noise of its own have their minimum, and how clear it is.

The scatter of a simulated head is scaled by a factor, the same in every ray, and subtracted from
noisy counts. A loss that suits noisy references is lowest at a factor of one, and its slope towards
that minimum is large compared with what the noise of one scan makes of it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from pcctlearn.chain import Chain
from pcctlearn.losses.counts import NoisyCountsLoss
from pcctlearn.losses.regions import RegionMeans
from pcctlearn.losses.stage import StageLoss, TotalLoss
from pcctlearn.physics.noise import draw_counts, generator_of
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import Scan
from pcctlearn.scans.flat_field import FlatFielded, flat_fielded
from pcctlearn.tomography.fbp import fbp

CONF = Path(__file__).parents[1] / "conf"
SCALES = np.arange(0.84, 1.05, 0.02)
FAR, NEAR = 0.9, 1.0  # the slope between them
_LEAST_SHARE = 0.02  # of the counts that is left by the subtraction


def losses() -> dict[str, TotalLoss]:
    """The losses that are compared, by name."""
    l1 = nn.L1Loss()
    found = {
        "scatter fraction, L1 [1]": TotalLoss({"f": StageLoss("scatter_fraction", l1)}),
        "counts, in units of their noise": TotalLoss({"n": NoisyCountsLoss()}),
        "maps alone, L1 of voxels [1]": TotalLoss({"maps": StageLoss("maps", l1)}),
    }
    for size in (1, 2, 4, 8, 16):
        distance = RegionMeans(l1, size)
        terms = {"maps": StageLoss("maps", distance), "vmi": StageLoss("vmi", distance, 5.0)}
        what = "voxels" if size == 1 else f"means over {size}³ voxels"
        found[f"maps and 60 keV, L1 of {what}"] = TotalLoss(terms)
    return found


def simulated(seed: int) -> FlatFielded:
    """A head of the demonstration data with its scatter."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("simulate", ["datasets.n_cases=1", f"datasets.first_seed={seed}"])
    simulator = instantiate(config.scan, _convert_="all")
    cases = instantiate(config.datasets, _convert_="all")
    recorded = simulator.scan(cases.placed(0, simulator.grid).maps, cases.names[0], seed)
    return flat_fielded(recorded, simulator.model.air().detach().float())


@torch.no_grad()
def curves(scan: FlatFielded, n_draws: int) -> dict[str, np.ndarray]:
    """{loss: (draw, scale)}, with new noise of both scans in every draw."""
    model = scan.recorded.spectral_model()
    assert model is not None
    decomposition = instantiate({"_target_": "pcctlearn.decomposition.MaximumLikelihood"}, model)
    image = MonoenergeticImages(model.materials, [60.0])
    geometry, grid = scan.recorded.geometry, scan.recorded.grid
    chain = Chain(decomposition, fbp(geometry, grid), image).eval()
    primary, scatter = scan.recorded.at("primary"), scan.recorded.at("scatter")
    compared = losses()
    values = {name: np.zeros((n_draws, len(SCALES))) for name in compared}
    for draw in range(n_draws):
        generator = generator_of(draw, "noise of both scans")
        y = scan.prepared(draw_counts(primary + scatter, generator))[None]
        r = scan.prepared(draw_counts(primary, generator))[None]
        seen = scan.prepared(scatter)[None]
        target = _scan(chain, y, r)
        for number, scale in enumerate(SCALES):
            left = torch.maximum(y - float(scale) * seen, _LEAST_SHARE * y)
            predicted = _scan(chain, y, left)
            for name, loss in compared.items():
                values[name][draw, number] = float(sum(loss(predicted, target).values()))
    return values


def _scan(chain: Chain, counts: torch.Tensor, corrected: torch.Tensor) -> Scan:
    fraction = torch.where(counts > 0, 1 - corrected / counts, 0.0)
    known = Scan(counts=counts, scatter_fraction=fraction, corrected_counts=corrected)
    lines = chain.decompose(corrected)[0]
    return chain.resume(Scan(**{**vars(known), "line_integrals": lines}), until="vmi")


def minimum(mean: np.ndarray) -> float:
    """Scale of the lowest value, by the parabola through it and its neighbours; NaN at an end."""
    k = int(mean.argmin())
    if k in (0, len(mean) - 1):
        return float("nan")
    before, at, after = mean[k - 1 : k + 2]
    step = SCALES[1] - SCALES[0]
    return float(SCALES[k] + 0.5 * step * (before - after) / (before - 2 * at + after))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--seed", type=int, default=500, help="of the first head")
    options = parser.parse_args()
    found: dict[str, list[np.ndarray]] = {}
    for seed in range(options.seed, options.seed + options.heads):
        for name, values in curves(simulated(seed), options.draws).items():
            found.setdefault(name, []).append(values)
    far, near = (int(np.abs(SCALES - scale).argmin()) for scale in (FAR, NEAR))
    rows = []
    for name, of_heads in found.items():
        least = [minimum(values.mean(0)) for values in of_heads]
        slopes = [values[:, near] - values[:, far] for values in of_heads]
        clear = [abs(slope.mean()) / slope.std(ddof=1) for slope in slopes]
        rows.append([name, f"{np.mean(least):.4f}", f"{min(least):.4f}", f"{np.mean(clear):.1f}"])
    print(f"{options.heads} heads, {options.draws} draws of the noise of both scans")
    print(f"{'loss':48s} {'minimum':>8s} {'lowest':>8s}   slope over its noise at {FAR:g}")
    for name, *numbers in rows:
        print(f"{name:48s}", *(f"{number:>8s}" for number in numbers))


if __name__ == "__main__":
    main()
