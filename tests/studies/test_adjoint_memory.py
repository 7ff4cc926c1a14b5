"""The peak memory is that of tensors, and implicit derivatives need the same for any steps."""

import pytest
import torch
from support.scanners import scanner

from pcctlearn.physics.noise import draw_counts
from pcctlearn.studies.adjoint_memory import memory_mb, peak_mb

FREE = [[-torch.inf, -torch.inf], [torch.inf, torch.inf]]


def test_the_peak_is_that_of_tensors_that_exist_together():
    given = torch.ones(1000)

    def job():
        first = given * 2  # 8000 bytes
        second = first[10:].exp()  # 7920 bytes beside them
        del first
        return second + second  # 7920 bytes beside as many

    assert peak_mb(job, given.device) == pytest.approx(15920e-6, abs=1e-9)
    assert peak_mb(lambda: given[3:].view(-1), given.device) == 0


def test_implicit_memory_is_flat_and_unrolled_memory_grows_with_the_steps():
    model = scanner(every=4)
    A = torch.tensor([20.0, 2.0]) * torch.rand(2000, 2)
    counts = draw_counts(model(A).detach())
    theta = counts, model.spectra().detach(), model.attenuation, A, FREE
    implicit = [memory_mb("implicit", k, *theta) for k in (5, 10, 20)]
    unrolled = [memory_mb("unrolled", k, *theta) for k in (5, 10, 20)]
    assert max(implicit) <= 1.05 * min(implicit)
    each = (unrolled[1] - unrolled[0]) / 5
    assert unrolled[2] == pytest.approx(unrolled[1] + 10 * each, rel=0.02)
    assert each > 0.5 * implicit[0]
