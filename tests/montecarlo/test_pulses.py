"""Pulses simulated one by one agree with the formulas of both kinds of counter."""

import numpy as np
import pytest
import torch
from support.scanners import scanner

from pcctlearn.montecarlo.pulses import PulseCounters
from pcctlearn.physics.thresholds import above_from_bins

TIME_s = 0.02


def counted(pulse_s, dead_s, photons, n=400, seed=0, thresholds_keV=(0.9,), adds=True):
    """Counts of equal counters, and the rate of all pulses."""
    model = scanner()
    fluence = model.fluence.double() * (photons / model.fluence.sum())
    energies = model.energies_keV
    pulses = float((model.response.above(torch.ones(1).double(), energies)[0] @ fluence).detach())
    counters = PulseCounters(model.response, pulse_s, dead_s, adds)
    edges = torch.tensor(thresholds_keV).double()
    found = counters.count(fluence.expand(n, -1), energies, edges, TIME_s, seed)
    return found.registered, pulses / TIME_s


def close(counts, expected, n_sd=4):
    return abs(counts.mean() - expected) < n_sd * counts.std() / np.sqrt(len(counts))


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("load", [0.05, 0.5, 2.0])
def test_a_threshold_below_all_pulses_is_paralysable(load, adds):
    counts, rate = counted(load * TIME_s / 2e4, 0.0, 2e4, adds=adds)
    tau = load * TIME_s / 2e4
    # n exp(−n τ), and nothing precedes the first pulse
    assert close(counts, rate * np.exp(-rate * tau) * TIME_s + 1 - np.exp(-rate * tau))
    m = rate * np.exp(-rate * tau)
    assert float(counts.var() / counts.mean()) == pytest.approx(1 - 2 * m * tau, abs=0.25)


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("load", [0.05, 0.5, 2.0])
def test_short_pulses_and_a_dead_time_are_nonparalysable(load, adds):
    tau = load * TIME_s / 2e4
    counts, rate = counted(1e-15, tau, 2e4, adds=adds)
    assert close(counts, rate / (1 + rate * tau) * TIME_s, n_sd=5)


def test_without_pile_up_the_counts_are_those_of_the_spectral_model():
    model = scanner()
    edges = model.thresholds.edges_keV.detach()[:-1].tolist()
    counts, _ = counted(1e-15, 0.0, 1e5, n=1000, thresholds_keV=edges)
    photons = 1e5 / float(model.fluence.sum())
    expected = above_from_bins(model.air().detach()) * photons
    above_the_last = model.response.above(model.thresholds.edges_keV[-1:], model.energies_keV)
    expected = expected + (above_the_last @ model.fluence).detach() * photons
    sd = (expected / 1000).sqrt()
    assert ((counts.mean(0) - expected).abs() < 4 * sd).all()
    assert ((counts.var(0) / counts.mean(0) - 1).abs() < 0.25).all()


def test_a_high_threshold_is_paralysed_only_by_pulses_above_it():
    tau = 4e-7
    alone, _ = counted(1e-15, 0.0, 1e5, thresholds_keV=(15.0, 59.0))
    piled, _ = counted(tau, 0.0, 1e5, thresholds_keV=(15.0, 59.0), adds=False)
    rates = alone.mean(0) / TIME_s
    expected = rates * torch.exp(-rates * tau) * TIME_s
    sd = piled.std(0) / piled.shape[0] ** 0.5
    assert ((piled.mean(0) - expected).abs() < 5 * (sd + alone.std(0) / 20)).all()


def test_overlapping_pulses_reach_a_high_threshold_together():
    alone, _ = counted(1e-15, 0.0, 1e5, thresholds_keV=(15.0, 59.0))
    piled, _ = counted(3e-7, 0.0, 1e5, thresholds_keV=(15.0, 59.0))
    assert piled[:, 0].mean() < 0.7 * alone[:, 0].mean()
    assert piled[:, 1].mean() > alone[:, 1].mean()


def test_all_pulses_are_those_of_counters_that_miss_none():
    model = scanner()
    fluence = (model.fluence.double() * (1e5 / model.fluence.sum())).expand(20, -1)
    edges = torch.tensor([15.0, 59.0]).double()
    rest = model.energies_keV, edges, TIME_s, 3
    ideal = PulseCounters(model.response, 1e-15).count(fluence, *rest)
    for adds in (True, False):
        piled = PulseCounters(model.response, 4e-7, 4e-7, adds).count(fluence, *rest)
        assert torch.equal(piled.pulses, ideal.registered)
        assert (piled.registered[:, 0] < ideal.registered[:, 0]).all()


def test_counts_depend_on_the_seed_and_not_on_other_counters():
    few, _ = counted(4e-7, 0.0, 1e4, n=3)
    more, _ = counted(4e-7, 0.0, 1e4, n=7)
    other, _ = counted(4e-7, 0.0, 1e4, n=3, seed=1)
    assert torch.equal(few, more[:3])
    assert not torch.equal(few, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0.0, 0.0), "pulse_s must be positive"), ((1e-7, -1.0), "dead_s must be 0 or more")],
)
def test_impossible_pulses_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        PulseCounters(scanner().response, *arguments)


def test_too_many_overlapping_pulses_are_refused():
    with pytest.raises(ValueError, match="pulses overlap on average, more than 8"):
        counted(1e-3, 0.0, 1e6, n=1)
