"""Benchmark of the Monte Carlo simulations of detectors and of a head.

Detectors are those of conf/detector. The head has 128³ voxels of 0.16 cm and is projected onto
96 × 64 pixels of 0.4 cm, silicon with four bins, at 120 kV, with the defaults of ObjectScatter.
Every interaction of a forced history is scored at n_points points of the panel (Compton) and in as
many directions (Rayleigh). Times are the best of several turns after one that compiles;
core-seconds are the CPU time of the process with one thread. There is no peer: none that simulates
this can be installed from the package index.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numba
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pcctlearn.montecarlo.object.scene import Scene, TubeSpectrum, scene_of
from pcctlearn.montecarlo.object.tracking_numba import N_SCATTERED
from pcctlearn.montecarlo.object.transport import ObjectScatter, follow
from pcctlearn.montecarlo.tally import smoothing_matrix
from pcctlearn.phantoms.ellipsoids import head_phantom
from pcctlearn.physics.response.analytic import Analytic
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.tomography.geometry.cone import ConeBeam
from pcctlearn.tomography.grids import VolumeGrid

ROOT = Path(__file__).resolve().parents[1]
EDGES_keV = [15.0, 33.0, 45.0, 59.0, 120.0]
DETECTOR_keV = [30.0, 60.0, 90.0]
ACCURACY = 0.02
N_CHUNKS = 16
VIEW = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=numba.get_num_threads())
    arguments = parser.parse_args()
    torch.manual_seed(0)
    results: dict[str, float] = {"detector_threads": float(arguments.threads)}
    numba.set_num_threads(arguments.threads)
    for name in ("silicon", "cdte"):
        results[f"{name}_histories_per_s"] = detector_speed(name, arguments.repeats)
    # idle threads of a pool spin, and their CPU time would be counted
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    scatter = ObjectScatter(ACCURACY)
    scene, registered = head(scatter)
    results |= object_speed(scene, scatter, arguments.repeats)
    results |= view_cost(scene, scatter, registered, arguments.repeats)
    results |= efficiency(scene, scatter, registered)
    Console(width=100).print(table(results))
    print(
        f"A forced history has {results['interactions_per_history']:.2f} interactions, each scored "
        f"at {results['points_per_interaction']:.0f} points and in as many directions: "
        f"{results['rays_per_history']:.1f} rays per history, "
        f"{results['forced_rays_per_core_s'] / 1e6:.2f} million per core-second. A view needs "
        f"{results['view_histories']:.0f} histories for {100 * results['view_noise']:.2f} % noise."
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def head(scatter: ObjectScatter) -> tuple[Scene, Tensor]:
    """The head in a scanner, and counts per photon (bin, group)."""
    spectrum = Spectrum(
        ROOT / "data/physics/spectra/tungsten_120kV_12deg.csv",
        {"aluminium": 0.2},
        photons_per_pixel=1e5,
    )
    beam = TubeSpectrum(spectrum.energies_keV, spectrum.fluence, scatter.group_stride)
    volume = VolumeGrid(128, 128, 128, 0.16)
    geometry = ConeBeam(8, 64, 96, 0.4, 62.5, 109.7)
    maps = head_phantom().volumes(volume).clamp(min=0)
    silicon = Analytic("silicon", 6.0, sharing_keV=217.0, sharing_exponent=3.2)
    above = silicon.above(torch.tensor(EDGES_keV, dtype=torch.float64), beam.groups_keV)
    scene = scene_of(
        maps,
        volume,
        ["water", "calcium"],
        geometry,
        beam,
        pixel_cm=scatter.pixel_cm,
        voxel_cm=scatter.voxel_cm,
    )
    return scene, (above[..., :-1, :] - above[..., 1:, :]).detach().double()


def detector_speed(name: str, repeats: int, n_histories: int = 400_000) -> float:
    """Histories per second of wall-clock time, at three energies of the spectrum."""
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = compose("simulate", [f"detector={name}"]).detector
    few = {"first_keV": DETECTOR_keV[0], "last_keV": DETECTOR_keV[-1]}
    few |= {"energy_step_keV": DETECTOR_keV[1] - DETECTOR_keV[0], "n_histories": n_histories}
    simulation = instantiate(OmegaConf.merge(config, few))
    seconds = best(simulation.run, repeats, perf_counter)
    return simulation.n_histories * len(simulation.energies_keV) / seconds


def object_speed(scene: Scene, scatter: ObjectScatter, repeats: int) -> dict[str, float]:
    """Histories per core-second, analog and forced."""
    panel, n_points = scene.panel(VIEW), scatter.n_points
    n_analog, n_forced = 20_000, 2000

    def analog() -> None:
        follow(scene, panel, 1, N_CHUNKS, n_analog, n_points=None)

    def forced(n_points: int = n_points) -> None:
        follow(scene, panel, 1, N_CHUNKS, n_forced, n_points=n_points)

    ledger = follow(scene, panel, 1, N_CHUNKS, n_forced, n_points=n_points).ledger
    interactions = ledger[:, N_SCATTERED].sum() / (N_CHUNKS * n_forced)
    forced_speed = N_CHUNKS * n_forced / best(forced, repeats)
    rays = 2 * n_points * interactions
    return {
        "analog_histories_per_core_s": N_CHUNKS * n_analog / best(analog, repeats),
        "forced_histories_per_core_s": forced_speed,
        "forced_4_points_histories_per_core_s": N_CHUNKS
        * n_forced
        / best(lambda: forced(4), repeats),
        "points_per_interaction": float(n_points),
        "interactions_per_history": interactions,
        "rays_per_history": rays,
        "forced_rays_per_core_s": forced_speed * rays,
    }


def view_cost(
    scene: Scene, scatter: ObjectScatter, registered: Tensor, repeats: int
) -> dict[str, float]:
    """Core-seconds until the relative noise of all four bins is below ACCURACY."""
    estimates = [scatter.estimate(scene, VIEW, registered, seed) for seed in range(2)]
    seconds = best(lambda: scatter.estimate(scene, VIEW, registered, 0), repeats)
    return {
        "view_core_s": seconds,
        "view_histories": float(estimates[0].n_histories),
        "view_noise": float(estimates[0].relative_noise.max()),
    }


def efficiency(scene: Scene, scatter: ObjectScatter, registered: Tensor) -> dict[str, float]:
    """1 / (variance · time) of forced over analog photons, for the smoothed image of all counts."""
    forced = figure_of_merit(scene, scatter, registered, 4000, scatter.n_points)
    analog = figure_of_merit(scene, scatter, registered, 50_000, None)
    return {"forced_over_analog": forced / analog}


def figure_of_merit(
    scene: Scene, scatter: ObjectScatter, registered: Tensor, n_histories: int, n_points: int | None
) -> float:
    """mean² / (variance · core-seconds) of the scatter in pixels where it is strong."""
    panel = scene.panel(VIEW)
    tallied = scene.tallied
    smooth_rows, smooth_columns = (
        smoothing_matrix(at_cm, from_cm, scatter.smoothing_cm)
        for at_cm, from_cm in (
            (scene.geometry.rows_cm, tallied.rows_cm),
            (scene.geometry.columns_cm, tallied.columns_cm),
        )
    )
    per_photon = registered.sum(0).numpy()
    start = process_time()
    images: list[NDArray[np.float64]] = []
    for first_chunk in range(0, 4 * N_CHUNKS, N_CHUNKS):
        tally = follow(scene, panel, 3, N_CHUNKS, n_histories, first_chunk, n_points)
        # analog tallies also hold primary photons, which are left out
        kinds = tally.values[:, 1:] if n_points is None else tally.values
        images += [smooth_rows @ image @ smooth_columns.T for image in kinds.sum(1) @ per_photon]
    seconds = process_time() - start
    mean, variance = np.mean(images, 0), np.var(images, 0, ddof=1) / len(images)
    bright = mean > 0.3 * mean.max()
    return float(1 / (np.mean(variance[bright] / mean[bright] ** 2) * seconds))


def best(
    job: Callable[[], object], repeats: int, clock: Callable[[], float] = process_time
) -> float:
    """Time in seconds of the fastest of several calls, after one that compiles."""
    job()
    seconds = []
    for _ in range(repeats):
        start = clock()
        job()
        seconds.append(clock() - start)
    return min(seconds)


def table(results: dict[str, float]) -> Table:
    threads = f"{results['detector_threads']:.0f} threads"
    rows = [
        (f"detector, silicon, {threads}", "silicon_histories_per_s", 1e6, "M histories/s", "≥ 2"),
        (f"detector, CdTe, {threads}", "cdte_histories_per_s", 1e6, "M histories/s", "≥ 1"),
        ("head, analog", "analog_histories_per_core_s", 1e6, "M histories/core-s", "≥ 0.75"),
        ("head, forced", "forced_histories_per_core_s", 1e3, "k histories/core-s", ""),
        (
            "head, forced, 4 points per interaction",
            "forced_4_points_histories_per_core_s",
            1e3,
            "k histories/core-s",
            "≥ 60",
        ),
        ("rays of forced detection", "forced_rays_per_core_s", 1e6, "M rays/core-s", ""),
        ("96 × 64 view of the head, 2 %, four bins", "view_core_s", 1, "core-s", "≤ 2.5"),
        ("efficiency of forced over analog", "forced_over_analog", 1, "", "≥ 5"),
    ]
    shown = Table(title="photon Monte Carlo", title_justify="left")
    for heading in ("quantity", "measured", "unit", "target"):
        shown.add_column(heading, justify="right" if heading == "measured" else "left")
    for label, key, scale, unit, target in rows:
        shown.add_row(label, f"{results[key] / scale:.3g}", unit, target)
    return shown


if __name__ == "__main__":
    main()
