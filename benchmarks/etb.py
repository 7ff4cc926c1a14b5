"""ETB-Cal: time to calibrate a detector from five aluminium plates.

Skew of one material above the lowest threshold, then the bias of three others, float64, noise on.
The peer is scipy's least_squares, which fits gain, thickness and all thresholds of one pixel at a
time to the same counts; it is timed on a few pixels in the same run.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.optimize import least_squares

from pcctlearn.calibration.calibration_set import CalibrationSet
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.pixel_model import PixelModel
from pcctlearn.calibration.plate_counts import PlateModel, plate_model
from pcctlearn.physics.response.presets import cdte_monte_carlo
from pcctlearn.physics.spectral_model import SpectralModel
from pcctlearn.physics.spectrum import Spectrum
from pcctlearn.physics.thresholds import Thresholds
from pcctlearn.simulation.plates import measured_plates

EDGES_keV = [31.0, 37.0, 54.0, 60.0, 149.0]
PLATES_CM = torch.tensor([[0.0], [0.5], [1.0], [1.5], [2.0]], dtype=torch.float64)
SCIPY_PIXELS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    parser.add_argument("--pixels", type=int, nargs="+", default=[896, 3564])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    model = scanner()
    results: dict[str, float] = {"threads": float(torch.get_num_threads())}
    for n_pixels in arguments.pixels:
        truth = detector(n_pixels)
        plates = measured_plates(truth, model, PLATES_CM, ("aluminium",), 1e8, seed=1)
        seconds, peer = [], []
        for _ in range(arguments.repeats):
            began = perf_counter()
            found = EtbCal().fit(plates, model)
            seconds.append(perf_counter() - began)
            began = perf_counter()
            errors = by_scipy(plates, plate_model(plates, model, ["CdTe"]), truth)
            peer.append((perf_counter() - began) * n_pixels / SCIPY_PIXELS)
        error = (found.thresholds_keV - truth.thresholds_keV)[:, 1:]
        results |= {
            f"{n_pixels}.seconds": median(seconds),
            f"{n_pixels}.scipy_seconds": median(peer),
            f"{n_pixels}.error_sd_keV": error.std().item(),
            f"{n_pixels}.scipy_error_sd_keV": float(np.std(errors)),
        }
    Console(width=100).print(table(results, arguments.pixels))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def scanner() -> SpectralModel:
    """120 kV on 0.75 mm of CdTe, four thresholds."""
    tube = Spectrum.tungsten(120.0, {"aluminium": 0.2})
    return SpectralModel.from_parts(
        tube, cdte_monte_carlo(), Thresholds(EDGES_keV), ["water", "calcium"]
    ).requires_grad_(False)


def detector(n_pixels: int) -> PixelModel:
    """Pixels of 40 µm CdTe and 0.3 keV scatter (one standard deviation), 1 % in gain."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    nominal = torch.tensor(EDGES_keV[:-1], dtype=torch.float64)
    bias = 0.3 * normal(n_pixels, len(nominal))
    bias[:, 0] = 0
    return PixelModel(
        gain=1 + 0.01 * normal(n_pixels),
        thickness_cm=0.004 * normal(n_pixels, 1),
        materials=("CdTe",),
        thresholds_keV=nominal + bias,
        nominal_keV=nominal,
        gain_covariance=torch.zeros(n_pixels, 2, 2, dtype=torch.float64),
        threshold_sd_keV=torch.zeros_like(bias),
        gauge="absolute",
    )


def by_scipy(plates: CalibrationSet, model: PlateModel, truth: PixelModel) -> list[float]:
    """Threshold errors of the first pixels, each fitted on its own."""
    errors = []
    nominal = plates.thresholds_keV
    for pixel in range(SCIPY_PIXELS):
        counts = plates.counts[:, pixel]

        def residuals(x: np.ndarray, counts: torch.Tensor = counts) -> np.ndarray:
            thickness = torch.tensor([[x[1] / 100]])
            edges = [nominal[0].item(), *x[2:]]
            expected = [
                np.exp(x[0]) * model.counts(thickness, torch.tensor([edge])).counts[0].numpy()
                for edge in edges
            ]
            difference = np.log(counts.numpy().T / np.array(expected))
            return (np.sqrt(counts.numpy().T) * difference).ravel()

        scale = np.log((counts[0, 0] / plates.counts[0, :, 0].mean()).item())
        air = model.counts(torch.zeros(1, 1).double(), nominal[:1]).counts[0, 0].item()
        start = [scale + np.log(plates.counts[0, :, 0].mean().item() / air), 0.0]
        found = least_squares(residuals, [*start, *nominal[1:].tolist()])
        errors += (found.x[2:] - truth.thresholds_keV[pixel, 1:].numpy()).tolist()
    return errors


def table(results: dict[str, float], sizes: list[int]) -> Table:
    shown = Table(title=f"ETB-Cal, {len(EDGES_keV) - 1} thresholds", title_justify="left")
    for column in ("pixels", "s", "scipy s", "scipy / it", "error sd (keV)", "scipy's"):
        shown.add_column(column, justify="right")
    for n in sizes:
        mine, peer = results[f"{n}.seconds"], results[f"{n}.scipy_seconds"]
        errors = results[f"{n}.error_sd_keV"], results[f"{n}.scipy_error_sd_keV"]
        cells = (mine, peer, peer / mine, *errors)
        shown.add_row(str(n), *(f"{cell:.3g}" for cell in cells))
    return shown


if __name__ == "__main__":
    main()
