"""Pixels of raw frames keep their order; gaps lie where they are described."""

import numpy as np
import pytest

from pcctlearn.bench.flags import Flags
from pcctlearn.bench.panel import Panel

PANEL = Panel(2, 6, {1: 1}, {2: 3, 4: 1})


def test_gaps_lie_after_the_columns_and_rows_that_are_named():
    assert PANEL.shape == (3, 10)
    rows, columns = PANEL.positions()
    assert rows.tolist() == [0, 2]
    assert columns.tolist() == [0, 1, 5, 6, 8, 9]
    assert PANEL.gaps()[0].tolist() == [0, 0, 1, 1, 1, 0, 0, 1, 0, 0]
    assert PANEL.gaps()[1].all()


def test_values_are_spread_to_their_places_and_back():
    values = np.arange(24).reshape(2, 2, 6)
    spread = PANEL.spread(values, -1.0)
    rows, columns = PANEL.positions()
    np.testing.assert_array_equal(spread[:, rows[:, None], columns], values)
    assert (spread == -1).sum() == 2 * (30 - 12)


def test_a_panel_without_gaps_is_its_frame():
    plain = Panel(2, 6)
    values = np.arange(12.0).reshape(2, 6)
    np.testing.assert_array_equal(plain.spread(values, np.nan), values)
    assert Flags(plain, {}).share == 0
    assert str(Flags(plain, {})) == "0 of 12 pixels are dead, 0 %"


def test_each_pixel_has_one_kind():
    masked, noisy = np.zeros((2, 2, 6), bool)
    masked[0, 0] = noisy[0, :2] = True
    flags = Flags(PANEL, {"masked": masked, "noisy": noisy})
    assert {kind: int(found.sum()) for kind, found in flags.kinds.items()} == {
        "in gaps": 18,
        "masked": 1,
        "noisy": 1,
    }
    assert flags.dead().sum() == 20
    assert flags.share == pytest.approx(20 / 30)
