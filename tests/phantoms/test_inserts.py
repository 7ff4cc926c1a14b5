"""Heads with inserts: contents, places and refusals."""

import pytest
import torch

from pcctlearn.phantoms.inserts import head_with_inserts


def test_materials_follow_from_skull_and_inserts():
    assert head_with_inserts({"iodine": [2.0]}).materials == ("water", "calcium", "iodine")
    assert head_with_inserts({"iodine": [2.0]}, skull_cm=0.0).materials == ("water", "iodine")
    mixed = head_with_inserts({"calcium": [50.0], "gadolinium": [3.0]}, skull_cm=0.0)
    assert mixed.materials == ("water", "calcium", "gadolinium")


def test_inserts_hold_what_they_say():
    head = head_with_inserts({"calcium": [50.0], "iodine": [2.0, 5.0]})
    names = [one.name for one in head.inserts]
    assert names == ["calcium_50", "iodine_2", "iodine_5"]
    for one in (*head.inserts, head.background):
        density = head.densities_at(torch.tensor([one.center_cm]))[:, 0]
        of = dict(zip(head.materials, density.tolist(), strict=True))
        assert of[one.material] * 1000 == pytest.approx(one.mg_mL or 1030)
        displaced = 0.05 / 1.55 if one.material == "calcium" else 0.0
        assert of["water"] == pytest.approx(1.03 * (1 - displaced))


def test_the_skull_is_around_the_brain():
    head = head_with_inserts({"iodine": [2.0]}, size_cm=(15.0, 19.0), skull_cm=0.6)
    outside, skull, brain = head.densities_at(
        torch.tensor([[7.6, 0.0], [7.2, 0.0], [0.0, 8.7]])
    ).mT.tolist()
    assert outside == pytest.approx([0.0, 0.0, 0.0])
    assert skull == pytest.approx([1.05, 0.45, 0.0])
    assert brain == pytest.approx([1.03, 0.0, 0.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inserts_mg_mL": {}}, "iodine"),
        ({"inserts_mg_mL": {"iodine": [0.0]}}, r"positive .* \[0\.0\]"),
        ({"inserts_mg_mL": {"iodine": [2.0] * 20}}, "20 inserts .* insert_diameter_cm="),
        ({"inserts_mg_mL": {"iodine": [2.0]}, "ring_radius_cm": 6.5}, "skull"),
        ({"inserts_mg_mL": {"iodine": [2.0]}, "insert_diameter_cm": -1.0}, "insert_diameter_cm"),
    ],
)
def test_inserts_that_do_not_fit_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        head_with_inserts(**options)


def test_the_remedy_of_inserts_that_overlap_works():
    with pytest.raises(ValueError, match="overlap") as caught:
        head_with_inserts({"iodine": [2.0] * 20})
    remedy = float(str(caught.value).rpartition("=")[2])
    assert len(head_with_inserts({"iodine": [2.0] * 20}, insert_diameter_cm=remedy).inserts) == 20
