"""Plates of counters with dead times are corrected before pixels are calibrated from them."""

from dataclasses import replace

import pytest
import torch
from calibration.test_plate_file import recorded

from pcctlearn.calibration.dead_times import DeadTimes
from pcctlearn.calibration.etb import EtbCal
from pcctlearn.calibration.plate_file import read_plates, write_plates
from pcctlearn.calibration.unpiled_plates import BEYOND, unpiled_plates
from pcctlearn.physics.pileup import registered_rate

TIME_S = torch.tensor([3.0, 3.0, 2.0, 2.0, 2.0], dtype=torch.float64)


def counters(paralysable_s=4e-9, nonparalysable_s=1e-9, keV=(40.0, 60.0)):
    times = [
        torch.full((2,), value, dtype=torch.float64) for value in (paralysable_s, nonparalysable_s)
    ]
    unknown = torch.zeros(2, 2, 2, dtype=torch.float64)
    thresholds = torch.tensor(keV, dtype=torch.float64)
    return DeadTimes(*times, unknown, torch.ones(2), torch.ones(2, dtype=torch.bool), thresholds)


def piled_up(record, found):
    """The plates as these counters register them."""
    time_s = TIME_S[:, None, None, None]
    rate = record.plates.counts.double() / time_s
    registered = registered_rate(rate, found.paralysable_s, found.nonparalysable_s) * time_s
    return replace(record, plates=replace(record.plates, counts=registered), time_s=TIME_S)


def test_plates_are_those_of_counters_without_dead_time():
    record = recorded()
    piled = piled_up(record, counters())
    loss = 1 - piled.plates.counts / record.plates.counts
    assert 0.02 < loss.max() < 0.1
    unpiled = unpiled_plates(piled, counters()).plates
    torch.testing.assert_close(unpiled.counts, record.plates.counts.double())
    assert unpiled.flags == record.plates.flags


def test_without_the_correction_thresholds_are_wrong():
    record, found = recorded(), counters()
    piled, nominal = piled_up(record, found), record.nominal_model()

    def errors(plates):
        """RMS errors of the thresholds, and of the skew in mm."""
        pixels = EtbCal().fit(plates, nominal)
        bias = (pixels.thresholds_keV - record.true_thresholds_keV)[..., 1]
        skew = 10 * (pixels.thickness_cm - record.skew_cm.movedim(0, -1))
        return torch.stack([bias.square().mean().sqrt(), skew.square().mean().sqrt()])

    reference = errors(record.plates)
    torch.testing.assert_close(errors(unpiled_plates(piled, found).plates), reference)
    assert (errors(piled.plates) > 5 * reference).any()


def test_pixels_beyond_the_greatest_rate_are_flagged():
    record = piled_up(recorded(), counters())
    counts = record.plates.counts.clone()
    counts[0, 0, 4] *= 10
    counts[:, 0, 6] = torch.nan
    record = replace(record, plates=replace(record.plates, counts=counts))
    flags = unpiled_plates(record, counters()).plates.flags
    assert flags[BEYOND].nonzero().tolist() == [[0, 4]]
    with pytest.raises(ValueError, match="all pixels are beyond"):
        unpiled_plates(record, counters(1e-6))


def test_counting_times_are_stored_and_needed(tmp_path):
    record = recorded()
    with pytest.raises(ValueError, match="dataset time_s"):
        unpiled_plates(record, counters())
    write_plates(tmp_path / "plates.h5", replace(record, time_s=TIME_S))
    found = read_plates(tmp_path / "plates.h5").time_s
    torch.testing.assert_close(found, TIME_S)


def test_dead_times_of_another_detector_are_refused():
    record = replace(recorded(), time_s=TIME_S)
    with pytest.raises(ValueError, match=r"thresholds of \[30\.0, 60\.0\]"):
        unpiled_plates(record, counters(keV=(30.0, 60.0)))
