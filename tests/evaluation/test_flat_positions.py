"""Inserts of a fan or parallel scan file from another program have their place and their density.

Line integrals are chords of discs, from the formulas of docs/geometry.md.
"""

from math import pi, sqrt

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from support.configs import composed

from pcctlearn.app.run import run as run_job
from pcctlearn.physics.attenuation import mass_attenuation
from pcctlearn.scans.file import faults

DISCS = (  # center (x, y) and radius in cm, density of (water, calcium) in g/cm³
    ((0.6, -0.5), 2.5, (1.0, 0.0)),
    ((1.7, 0.4), 0.4, (0.0, 0.3)),
    ((-0.5, -1.6), 0.3, (0.0, 0.2)),
)
N = 240
ORBIT = {"source_to_axis_cm": 50.0, "source_to_detector_cm": 100.0}
_uneven = np.random.default_rng(3).permutation(
    -2 * pi * (np.arange(N) + np.random.default_rng(4).uniform(-0.3, 0.3, N)) / N
)
SCANNERS = {
    "fan": ("fan", {"n_columns": 200, "pixel_cm": 0.1, **ORBIT}, None),
    "short fan with offsets": (
        "fan",
        {
            "n_columns": 200, "pixel_cm": 0.1, **ORBIT, "offset_cm": 0.35,
            "axis_offset_cm": 0.4, "start_rad": 0.7, "arc_rad": 4.5,
        },
        None,
    ),
    "uneven clockwise fan": (
        "fan",
        {"n_columns": 200, "pixel_cm": 0.1, **ORBIT, "offset_cm": 0.35},
        _uneven,
    ),
    "parallel": ("parallel", {"n_columns": 140, "pixel_cm": 0.06, "start_rad": 0.9}, None),
    "half of a parallel detector": (
        "parallel",
        {"n_columns": 90, "pixel_cm": 0.06, "offset_cm": 1.5, "arc_rad": 2 * pi},
        None,
    ),
    "golden angle": (
        "parallel",
        {"n_columns": 140, "pixel_cm": 0.06, "offset_cm": 0.1},
        pi * (sqrt(5) - 1) / 2 * np.arange(N) % (2 * pi),
    ),
    "clockwise parallel": (
        "parallel",
        {"n_columns": 140, "pixel_cm": 0.06},
        -pi / N * np.arange(N),
    ),
}  # fmt: skip
EDGES = np.array([20.0, 60.0, 122.0])
ENERGIES = np.arange(20.0, 122.0, 2.0)
FLUENCE = np.interp(ENERGIES, [20, 60, 120], [0, 4000, 0])
DEPOSITED = np.arange(0.5, 140.0, 1.0)
RESPONSE = np.exp(-(((DEPOSITED[:, None] - ENERGIES) / 3) ** 2) / 2) / (3 * np.sqrt(2 * pi))


@pytest.fixture(autouse=True)
def _as_the_command():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


def area_densities(beam, parameters, angles, n_parts=4):
    """(view, column, material), g/cm²: mean over the width of every pixel."""
    n, pixel = parameters["n_columns"], parameters["pixel_cm"]
    parts = (np.arange(n * n_parts) + 0.5) / n_parts - n / 2
    u = (parts * pixel + parameters.get("offset_cm", 0.0))[:, None]
    along = np.stack([np.cos(angles), np.sin(angles)], -1)[:, None]
    toward = np.stack([-np.sin(angles), np.cos(angles)], -1)[:, None]
    if beam == "parallel":
        points, directions = u * along, toward + 0 * u
    else:
        axis_cm = parameters.get("axis_offset_cm", 0.0)
        points = -axis_cm * along - parameters["source_to_axis_cm"] * toward
        to_pixel = parameters["source_to_detector_cm"] * toward + u * along
        directions = to_pixel / np.linalg.norm(to_pixel, axis=-1, keepdims=True)
    total = 0.0
    for center, radius, densities in DISCS:
        to_center = np.asarray(center) - points
        squared = (to_center**2).sum(-1) - (to_center * directions).sum(-1) ** 2
        total += 2 * np.sqrt(np.clip(radius**2 - squared, 0, None))[..., None] * densities
    return total.reshape(len(angles), n, n_parts, 2).mean(2)


def stored(path, beam, parameters, angles):
    """A scan file of expected counts."""
    arc = parameters.get("arc_rad", pi if beam == "parallel" else 2 * pi)
    views = parameters.get("start_rad", 0.0) + arc / N * np.arange(N) if angles is None else angles
    mu = [mass_attenuation(name, torch.from_numpy(ENERGIES)) for name in ("water", "calcium")]
    in_bin = (EDGES[:-1, None] <= DEPOSITED) & (EDGES[1:, None] > DEPOSITED)
    spectra = in_bin @ RESPONSE * FLUENCE
    transmission = np.exp(-area_densities(beam, parameters, views) @ np.stack(mu))
    air = np.broadcast_to(spectra.sum(1)[:, None, None], (2, 1, parameters["n_columns"]))
    with h5py.File(path, "w") as file:
        file.attrs.update(
            schema="pcctlearn scan", schema_version=2, counted="bins", name="discs off center"
        )
        for name, values, unit in (
            ("counts", np.einsum("be,vce->bvc", spectra, transmission)[:, :, None], "photons"),
            ("air", air, "photons"),
            ("thresholds_keV", EDGES, "keV"),
            ("spectrum/energies_keV", ENERGIES, "keV"),
            ("spectrum/fluence", FLUENCE, "photons"),
            ("response/energies_keV", ENERGIES, "keV"),
            ("response/deposited_keV", DEPOSITED, "keV"),
            ("response/response_per_keV", RESPONSE, "1/keV"),
        ):
            file.create_dataset(name, data=values).attrs["unit"] = unit
        geometry = file.create_group("geometry")
        geometry.attrs.update(beam=beam, n_views=N, **parameters)
        if angles is not None:
            dataset = geometry.create_dataset("measured_angles_rad", data=angles)
            dataset.attrs["unit"] = "rad"
    return path


@pytest.mark.filterwarnings("ignore:truncated")
@pytest.mark.parametrize("scanner", SCANNERS)
def test_inserts_have_their_place_and_their_density(tmp_path, scanner):
    path = stored(tmp_path / "discs.h5", *SCANNERS[scanner])
    assert faults(path) == []
    out = tmp_path / "out"
    words = [f"scans={path}", f"folder={out}", "scatter=none"]
    run_job(composed(out, *words, name="evaluate"))
    images = {name: nib.load(out / f"discs/{name}.nii.gz") for name in ("water", "calcium")}
    water, calcium = (image.get_fdata()[:, :, 0] / 1000 for image in images.values())  # g/cm³
    indices = np.stack([*np.indices(calcium.shape), *np.ones((2, *calcium.shape))])
    right, front, *_ = np.tensordot(images["water"].affine, indices, 1) / 10
    x, y = -right, front

    def distance(disc):
        return np.hypot(x - disc[0][0], y - disc[0][1])

    body, *inserts = DISCS
    for center, radius, (_, density) in inserts:
        disc = (center, radius)
        near = np.where(distance(disc) < radius + 0.15, calcium, 0)
        centroid = [(near * axis).sum() / near.sum() for axis in (x, y)]
        np.testing.assert_allclose(centroid, center, atol=0.015)
        assert calcium[distance(disc) < 0.6 * radius].mean() == pytest.approx(density, rel=0.02)
    elsewhere = distance(body) < body[1] - 0.2
    for disc in inserts:
        elsewhere &= distance(disc) > disc[1] + 0.2
    assert water[elsewhere].mean() == pytest.approx(1.0, abs=0.005)
    assert calcium[elsewhere].mean() == pytest.approx(0.0, abs=0.002)
