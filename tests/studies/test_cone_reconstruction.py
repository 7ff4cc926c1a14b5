"""The cone-beam study in a small size: exact line integrals, noise, and reconstructions."""

from dataclasses import replace
from math import exp

import numpy as np
import pytest
import torch
from support.studies import (
    cone_study,
    finished_cone,
    in_context,
    phantom_study,
    tiny_beam,
    tiny_cone,
)

from pcctlearn.phantoms.ellipses import Ellipse, water_calcium_phantom
from pcctlearn.phantoms.ellipsoids import EllipsoidPhantom, head_phantom
from pcctlearn.physics.attenuation import mass_attenuation
from pcctlearn.studies.cone_reconstruction import (
    METHODS,
    exact_sinogram,
    measured_sinogram,
    rms_errors,
)

BLOB = Ellipse((2.0, -1.5, 3.0), (4.0, 4.5, 6.0), (1.0,))  # crosses all three central planes


def run(**options):
    return cone_study(**options).run(in_context())


def test_the_study_returns_its_main_numbers():
    results = finished_cone()
    for name in METHODS:
        assert {f"{name}_rmse_HU", f"{name}_rmse_in_soft_tissue_HU", f"{name}_time_s"} <= set(
            results.numbers
        )
    assert results.numbers["cgls_iterations"] == 8
    assert "fdk_iterations" not in results.numbers
    assert all(isinstance(value, float) for value in results.numbers.values())
    assert results.summary.endswith(".")


def test_result_names_are_known_before_the_run():
    assert cone_study().result_names == list(finished_cone().numbers)


def test_only_the_chosen_methods_run():
    results = run(methods=["fdk"])
    assert not any(name.startswith(("cgls", "sirt")) for name in results.numbers)
    drawn = [name.partition(".")[2] for name in results.figures]
    assert drawn == ["setup", "central_slices"]


def test_error_curves_end_at_the_reported_errors():
    results = finished_cone()
    for name in METHODS[1:]:
        iterations, head, soft_tissue = results.arrays[f"errors/{name}"]
        assert (iterations.diff() > 0).all()
        assert iterations[-1] == results.numbers[f"{name}_iterations"]
        assert head[-1].item() == results.numbers[f"{name}_rmse_HU"]
        assert soft_tissue[-1].item() == results.numbers[f"{name}_rmse_in_soft_tissue_HU"]


def test_the_same_seed_gives_the_same_noise():
    first, again = (run(methods=["fdk"]).numbers["fdk_rmse_HU"] for _ in range(2))
    other = run(methods=["fdk"], seed=1).numbers["fdk_rmse_HU"]
    assert first == again != other


def test_errors_grow_with_noise():
    none, some, much = (run(methods=["fdk"], photons=n).numbers for n in (None, 1e5, 50.0))
    assert none["sinogram_noise_relative"] == none["rays_without_a_photon"] == 0
    assert 0 < some["sinogram_noise_relative"] < 0.1 * much["sinogram_noise_relative"]
    assert some["rays_without_a_photon"] == 0 < much["rays_without_a_photon"]
    assert none["fdk_rmse_HU"] <= some["fdk_rmse_HU"] < much["fdk_rmse_HU"]


def test_a_ball_of_water_is_zero_hounsfield():
    ball = EllipsoidPhantom([Ellipse((0.5, -1.0, 0.5), (6.5,) * 3, (1.0,))], ["water"])
    beam = replace(tiny_cone(), n_views=90)
    results = run(geometry=beam, phantom=ball, photons=None, methods=["fdk"])
    inside = results.arrays["axial/fdk_HU"][8:12, 6:10]
    assert inside.abs().max() < 30


def test_projections_are_those_of_the_phantom_at_one_energy():
    water = mass_attenuation("water", [60.0])
    ball = EllipsoidPhantom([Ellipse((0.0, 0.0, 0.0), (5.0,) * 3, (0.8,))], ["water"])
    beam = replace(tiny_cone(), n_rows=25, n_columns=23)  # odd: one ray crosses the center
    l = exact_sinogram(ball, beam, water)  # noqa: E741
    torch.testing.assert_close(l[:, 12, 11], (water * 0.8 * 10.0).expand(30))
    jumbled = np.random.default_rng(0).permutation(30)
    mixed = replace(beam, view_angles_rad=beam.angles_rad[jumbled])
    torch.testing.assert_close(exact_sinogram(ball, mixed, water), l[jumbled.tolist()])


@pytest.mark.physics
def test_noise_has_the_variance_of_a_poisson_count():
    """Var(l) = e^l / N to first order in 1/N."""
    line_integrals, photons = torch.full((40, 40, 40), 2.0), 1e5
    measured, dark = measured_sinogram(line_integrals, photons, torch.Generator().manual_seed(0))
    assert not dark.any()
    variance = exp(2.0) / photons
    assert measured.var().item() == pytest.approx(variance, rel=0.03)
    assert measured.mean().item() == pytest.approx(2.0, abs=5 * (variance / 40**3) ** 0.5)


def test_a_ray_without_a_photon_is_marked_and_taken_as_half_a_photon():
    measured, dark = measured_sinogram(torch.full((1, 1, 1), 60.0), 100.0, torch.Generator())
    assert dark.all()
    torch.testing.assert_close(measured, torch.log(torch.tensor(200.0)).expand(1, 1, 1))


def test_errors_are_of_the_head_and_of_its_soft_tissue():
    truth = torch.tensor([[[-1000.0, -400.0, 20.0, 900.0]]])
    volume = truth + torch.tensor([[[7.0, 3.0, 1.0, 5.0]]])
    assert rms_errors(volume, truth) == pytest.approx([(35 / 3) ** 0.5, 1.0])


def test_slices_are_the_right_way_up():
    """Their first row has the largest y or z, their first column the least x or y."""
    results = run(phantom=EllipsoidPhantom([BLOB], ["water"]), photons=None, methods=["fdk"])
    z, y, x = results.arrays["slices/edges_cm"]
    for plane, (across, up, center) in {
        "axial": (x, y, BLOB.center_cm[:2]),
        "coronal": (x, z, BLOB.center_cm[::2]),
        "sagittal": (y, z, BLOB.center_cm[1:]),
    }.items():
        for name in ("truth", "fdk"):
            mass = (results.arrays[f"{plane}/{name}_HU"].numpy() + 1000).clip(min=300)
            mass -= 300
            n_up, n_across = mass.shape
            columns = across[0] + (np.arange(n_across) + 0.5) * np.ptp(across) / n_across
            rows = up[1] - (np.arange(n_up) + 0.5) * np.ptp(up) / n_up
            found = [(mass.sum(0) @ columns) / mass.sum(), (mass.sum(1) @ rows) / mass.sum()]
            assert found == pytest.approx(list(center), abs=0.2), (plane, name)


@pytest.mark.parametrize(
    ("study", "options", "error", "message"),
    [
        (cone_study, {"geometry": tiny_beam()}, TypeError, "ParallelBeam.*tomography=cone"),
        (cone_study, {"phantom": water_calcium_phantom()}, TypeError, "EllipsePhantom.*phantoms="),
        (cone_study, {"methods": ["fdk", "art"]}, ValueError, "methods.* fdk, sirt.*'art'"),
        (cone_study, {"methods": []}, ValueError, r"methods.* fdk, sirt.*\[\]"),
        (cone_study, {"n_subsets": 16}, ValueError, "n_subsets .* 15.* 16"),
        (cone_study, {"photons": 0.0}, ValueError, "photons .* 0"),
        (cone_study, {"backend": "cuda"}, ValueError, "'cuda'"),
        (phantom_study, {"geometry": tiny_cone()}, TypeError, "ConeBeam.*tomography=parallel"),
        (phantom_study, {"phantom": head_phantom()}, TypeError, "phantoms=water_calcium"),
    ],
)
def test_settings_that_do_not_fit_are_rejected(study, options, error, message, annotations_off):
    with pytest.raises(error, match=message):
        study(**options)


@pytest.mark.parametrize("name", ["sirt", "os_sart", "cgls", "fista_tv"])
def test_a_wrong_option_of_a_solver_is_rejected_before_the_scan(name):
    def solver(*args, **options):
        raise ValueError("no such option")

    with pytest.raises(ValueError, match="no such option"):
        cone_study(**{name: solver})


def test_triton_needs_a_gpu():
    with pytest.raises(ValueError, match=r"backend=triton .* trainer=gpu"):
        run(backend="triton", methods=["fdk"])
