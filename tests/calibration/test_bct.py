"""Tables of two thicknesses return those of each ray, and correct water."""

import logging
from dataclasses import replace

import pytest
import torch
from support.plates import cdte_scanner, flawed, plates_of

from pcctlearn.calibration.base import Calibrator, PixelCalibration, ProjectionCorrection
from pcctlearn.calibration.bct import Bct
from pcctlearn.physics.attenuation import linear_attenuation
from pcctlearn.simulation.plates import measured_plates

MATERIALS = ("PMMA", "aluminium")
PMMA_CM = (0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 25.0)
ALUMINIUM_CM = (0.0, 0.6, 1.2, 1.8, 2.4)
EDGES_KEV = (31.0, 40.0, 60.0, 149.0)


def grid(first=PMMA_CM, second=ALUMINIUM_CM):
    return torch.cartesian_prod(
        torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    )


def grid_plates(truth, photons=1e10, seed=None, plates_cm=None, scanner=None):
    plates_cm = grid() if plates_cm is None else plates_cm
    return measured_plates(truth, scanner or cdte_scanner(), plates_cm, MATERIALS, photons, seed)


def behind(pixels, lengths_cm, scanner=None):
    """Projections of {material: length} that the pixels measure."""
    scanner = scanner or cdte_scanner()
    table = linear_attenuation(list(lengths_cm), scanner.energies_keV)
    depth = torch.tensor([*lengths_cm.values()], dtype=torch.float64) @ table
    above = pixels.spectra_above(scanner)
    return -((above @ torch.exp(-depth)) / above.sum(-1)).log()


def test_it_is_a_calibrator():
    assert isinstance(Bct(), Calibrator)
    found = Bct().fit(grid_plates(flawed(n_pixels=6)), cdte_scanner())
    assert isinstance(found, PixelCalibration)
    assert isinstance(found.correction(cdte_scanner()), ProjectionCorrection)
    assert found.calibrated.all()


def test_plates_have_their_thicknesses():
    truth = flawed(n_pixels=6)
    correct = Bct().fit(grid_plates(truth), cdte_scanner()).correction(cdte_scanner())
    for lengths in ((8.0, 1.2), (20.0, 0.6), (0.0, 0.0)):
        projections = behind(truth, dict(zip(MATERIALS, lengths, strict=True)))
        wanted = torch.tensor(lengths, dtype=torch.float64).expand(6, 2)
        torch.testing.assert_close(correct.thicknesses(projections), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("photons", "seed", "bound"), [(1e10, None, 3e-4), (1e8, 3, 4e-3)])
def test_water_is_monochromatic_in_every_pixel(photons, seed, bound):
    truth = flawed()
    found = Bct().fit(grid_plates(truth, photons, seed), cdte_scanner())
    correct = found.correction(cdte_scanner())
    assert found.calibrated.all()
    measured = behind(truth, {"water": 20.0})
    error = correct(measured) - 20.0 * correct.water_per_cm
    plain = flawed(skew_cm=0.0, bias_keV=0.0).correction(cdte_scanner())(measured)
    assert error.std(0).max() < bound
    assert (error.std(0) < plain.std(0) / 5).all()
    assert error.mean(0).abs().max() < 3e-3  # between nodes, and water is not of the basis


def test_a_dense_table_interpolates_better():
    truth = flawed(n_pixels=6)
    lengths = {"PMMA": 9.0, "aluminium": 0.9}
    errors = []
    for first in (PMMA_CM[::3], PMMA_CM, [i + 0.0 for i in range(26)]):
        plates = grid_plates(truth, plates_cm=grid(first, [0.3 * i for i in range(9)]))
        v = Bct().fit(plates, cdte_scanner()).correction(cdte_scanner())
        found = v.thicknesses(behind(truth, lengths))
        errors.append((found - torch.tensor([*lengths.values()])).abs().max())
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


@pytest.mark.parametrize("n_terms", [None, 2])
def test_three_bins(n_terms):
    scanner = cdte_scanner(EDGES_KEV)
    truth = flawed(n_pixels=6, edges_keV=EDGES_KEV)
    found = Bct(n_terms=n_terms).fit(grid_plates(truth, scanner=scanner), scanner)
    v = found.correction(scanner).thicknesses(
        behind(truth, {"PMMA": 12.0, "aluminium": 1.8}, scanner)
    )
    wanted = torch.tensor([12.0, 1.8], dtype=torch.float64).expand(6, 2)
    torch.testing.assert_close(v, wanted, rtol=0, atol=1e-5)


def test_order_and_exposure_of_the_plates_do_not_matter():
    truth = flawed(n_pixels=6)
    plates = grid_plates(truth)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(plates.counts), generator=generator)
    exposure = 0.5 + torch.rand(len(order), generator=generator, dtype=torch.float64)
    shuffled = replace(
        plates,
        counts=plates.counts[order] * exposure[:, None, None],
        plates_cm=plates.plates_cm[order],
        exposure=exposure,
    )
    one, two = (Bct().fit(p, cdte_scanner()).table.values for p in (plates, shuffled))
    torch.testing.assert_close(one, two)


def test_rays_outside_the_table_are_counted(caplog):
    truth = flawed(n_pixels=6)
    correct = Bct().fit(grid_plates(truth), cdte_scanner()).correction(cdte_scanner())
    with caplog.at_level(logging.WARNING):
        wrong = torch.tensor([0.1, 9.0], dtype=torch.float64).expand(6, 2)
        assert correct(wrong).isfinite().all()
    assert "6 of 6 rays" in caplog.text


def test_unusable_pixels_are_nominal():
    plates = grid_plates(flawed(n_pixels=8, skew_cm=0.001, bias_keV=0.2), 1e8, seed=3)
    plates.counts[:, 4] = 0
    plates.counts[2, 5, 1] = plates.counts[2, 5, 0] + 1  # an empty bin
    found = Bct().fit(plates, cdte_scanner())
    assert (~found.calibrated).nonzero().flatten().tolist() == [4, 5]
    nominal = flawed(n_pixels=8, skew_cm=0.0, bias_keV=0.0)
    v = found.correction(cdte_scanner()).thicknesses(behind(nominal, {"PMMA": 8.0}))
    torch.testing.assert_close(v[4:6, 0], torch.full((2,), 8.0).double(), rtol=0, atol=1e-6)


def test_a_panel_of_pixels_keeps_its_shape():
    truth = flawed(n_pixels=6)
    panel = truth.as_panel((2, 3))
    found = Bct().fit(grid_plates(panel), cdte_scanner())
    assert found.calibrated.shape == (2, 3)
    correct = found.correction(cdte_scanner())
    row = Bct().fit(grid_plates(truth), cdte_scanner()).correction(cdte_scanner())
    measured = behind(truth, {"water": 10.0})
    both = torch.stack([measured, measured])
    torch.testing.assert_close(
        correct(both.reshape(2, 2, 3, 2)).reshape(2, 6, 2), row(both), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize(
    ("plates", "named"),
    [
        (lambda: plates_of(flawed()), "calibration=etb"),
        (lambda: grid_plates(flawed(), plates_cm=grid()[:-1]), "34 exposures"),
        (lambda: grid_plates(flawed(), plates_cm=grid(second=(0.0, 1.0))), "7 x 2"),
        (lambda: grid_plates(flawed(), plates_cm=grid(second=(0.5, 1.0, 1.5))), "0 among them"),
        (lambda: replace(grid_plates(flawed()), exposure=None), "exposure of each plate"),
    ],
)
def test_plates_that_make_no_table_are_refused(plates, named):
    with pytest.raises(ValueError, match=named):
        Bct().fit(plates(), cdte_scanner())


def test_more_terms_than_bins_need_a_penalty():
    plates = grid_plates(flawed(n_pixels=6))
    with pytest.raises(ValueError, match="n_terms=3"):
        Bct(n_terms=3).fit(plates, cdte_scanner())
    assert Bct(n_terms=3, penalty=1e-6).fit(plates, cdte_scanner()).calibrated.shape == (6,)
    with pytest.raises(ValueError, match="n_terms must be 2"):
        Bct(n_terms=1)
