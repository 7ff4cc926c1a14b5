"""Errors of a correction are zero for the truth and equal to known differences."""

import pytest
import torch

from pcctlearn.metrics.correction import correction_errors
from pcctlearn.physics.attenuation import mass_attenuation
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scan import Scan

MATERIALS = ("water", "calcium")
SEEN = torch.ones(3, 4, 4, dtype=torch.bool)


def reference():
    line_integrals = torch.zeros(1, 2, 2, 3, 4)
    line_integrals[:, 0, ..., 1:3] = 20.0  # the outer columns miss the object
    maps = torch.zeros(1, 2, 3, 4, 4)
    maps[:, 0, :, 1:3, 1:3] = 1.0
    primary = torch.full((1, 2, 2, 3, 4), 100.0)
    return Scan(
        counts=1.1 * primary, corrected_counts=primary, line_integrals=line_integrals, maps=maps
    )


def errors(**changes):
    truth = reference()
    stages = {
        name: truth.at(name) for name in ("counts", "corrected_counts", "line_integrals", "maps")
    }
    image = MonoenergeticImages(MATERIALS, [60.0])
    return correction_errors(Scan(**(stages | changes)), truth, image, MATERIALS, SEEN)


def test_the_truth_has_no_error():
    assert all(value == 0 for value in errors().values())


def test_remaining_scatter_is_a_percentage_of_primary():
    assert errors(corrected_counts=None)["spr_percent"] == pytest.approx(10)
    truth = reference().at("corrected_counts")
    assert errors(corrected_counts=0.98 * truth)["spr_percent"] == pytest.approx(2)


def test_projections_are_in_cm_of_the_material_within_the_shadow():
    line_integrals = reference().at("line_integrals")
    line_integrals[:, 1, ..., 1:3] += 0.155
    line_integrals[:, 0, ..., 0] += 1e3  # outside the object, which does not count
    found = errors(line_integrals=line_integrals)
    assert found["projection_calcium_rmse_cm"] == pytest.approx(0.1)
    assert found["projection_water_rmse_cm"] == 0


def test_images_are_in_mg_per_mL_and_HU_within_the_body():
    maps = reference().at("maps")
    maps[:, 0, :, 1:3, 1:3] += 0.02
    maps[:, 0, :, 0] = 5.0
    found = errors(maps=maps)
    assert found["image_water_rmse_mg_mL"] == pytest.approx(20)
    assert found["vmi60_rmse_HU"] == pytest.approx(20)
    calcium = reference().at("maps")
    calcium[:, 1, :, 1:3, 1:3] += 0.01
    ratio = mass_attenuation("calcium", [60.0]) / mass_attenuation("water", [60.0])
    assert errors(maps=calcium)["vmi60_rmse_HU"] == pytest.approx(10 * ratio.item())
