"""``judge`` compares corrections with the primary counts of the same scan."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.scan_files import recorded

from pcctlearn.chain import Chain
from pcctlearn.decomposition.maximum_likelihood import MaximumLikelihood
from pcctlearn.evaluation.judge import judge
from pcctlearn.metrics.errors import Metric
from pcctlearn.physics.vmi import MonoenergeticImages
from pcctlearn.scans.flat_field import flat_fielded
from pcctlearn.scatter.base import ScatterCorrection
from pcctlearn.tomography.fbp import fbp

SPR = Metric("spr_percent")


class Fixed(ScatterCorrection):
    """A correction with the same scattered fraction in every pixel."""

    def __init__(self, fraction):
        super().__init__()
        self.fraction = fraction

    def forward(self, counts):
        return torch.full_like(counts, self.fraction)


def scans(*names):
    """Scans with a scattered fraction of 0.2 in every pixel."""
    scan = replace(recorded(), materials=("water", "calcium"))
    air = scan.spectral_model().air().detach()
    return [flat_fielded(replace(scan, name=name), air) for name in names]


def chain(fraction=None):
    scan = recorded()
    model = scan.spectral_model(["water", "calcium"])
    image = MonoenergeticImages(model.materials, [60.0])
    reconstruct = fbp(scan.geometry, scan.grid)
    correct = None if fraction is None else Fixed(fraction)
    return Chain(MaximumLikelihood(model), reconstruct, image, correct)


def test_the_true_fraction_leaves_no_error():
    found = judge(chain(0.2), scans("a"), None, {"half": Fixed(0.1)}).errors
    assert found.values[SPR, "uncorrected"] == pytest.approx(25)
    assert found.values[SPR, "half"] == pytest.approx(12.5)
    for metric, values in found.of("corrected").items():
        assert values < 1e-3, metric.name
    assert not any(metric.noisy for metric in found.metrics)


def test_the_errors_of_a_scan_do_not_depend_on_other_scans():
    among = judge(chain(0.1), scans("a", "b", "c")).errors
    alone = judge(chain(0.1), scans("b")).errors
    assert alone.values.keys() == among.values.keys()
    for key, values in alone.values.items():
        assert values[0] == among.values[key][1], key
    noise = among.values[Metric(SPR.key, noisy=True), "noise_alone"]
    assert len(np.unique(noise)) == 3


def test_without_noise_and_correction_only_uncorrected_errors_remain():
    (scan,) = scans("a")
    counts = scan.recorded.at("primary") + scan.recorded.at("scatter")
    quiet = flat_fielded(replace(scan.recorded, counts=counts), chain().decompose.model.air())
    result = judge(chain(), [quiet])
    assert result.errors.methods == ["uncorrected"]
    assert set(result.shown) == {
        f"{method}/{what}"
        for method in ("uncorrected", "reference")
        for what in ("vmi_HU", "axial_maps", "line_integrals")
    }


def test_a_chain_without_images_is_rejected():
    with pytest.raises(ValueError, match="images"):
        judge(Chain(MaximumLikelihood(recorded().spectral_model(["water"]))), [])
