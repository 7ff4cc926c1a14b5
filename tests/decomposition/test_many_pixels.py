"""As many pixels with spectra of their own as a detector has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Photons from a million to a few: compiled functions for easy, ambiguous and hard rays, and for the
# derivatives, loop over the pixels. Allocations of one turn must not add up on the stack.
SCRIPT = """
import sys
import torch
from support.scanners import scanner
from pcctlearn.decomposition.maximum_likelihood import decompose
from pcctlearn.physics.noise import draw_counts

n = int(sys.argv[1])
generator = torch.Generator().manual_seed(8201)
model = scanner(every=16)
spectra, attenuation = model.spectra().detach(), model.attenuation
photons = 10 ** (6 * torch.rand(n, 1, 1, generator=generator)) / spectra.sum()
own = (photons * spectra).float()
A = torch.rand(n, 2, generator=generator) * torch.tensor([20.0, 2.0])
transmission = torch.exp(-A @ attenuation.float())
mean = (own * transmission[:, None]).sum(-1)
counts = draw_counts(mean, generator).requires_grad_()
own.requires_grad_()
x, converged = decompose(counts, own, attenuation.float())
x.sum().backward()
bright = photons[:, 0, 0] * spectra.sum() > 1e4
error = (x.detach() - A)[bright & converged]
print(
    x.isfinite().all().item(),
    converged[bright].float().mean().item(),
    error.median(0).values.abs().max().item(),
    counts.grad.isfinite().all().item() and own.grad.isfinite().all().item(),
)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the limit of the stack is set by a POSIX shell")
def test_three_hundred_thousand_pixels_within_the_usual_stack():
    tests = Path(__file__).parents[1]
    paths = [str(tests), str(tests.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    words = ["sh", "-c", 'ulimit -s 8192 && exec "$@"', "sh", sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        [*words, "300000"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "NUMBA_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    finite, solved, bias_g_cm2, gradients = done.stdout.split()
    assert finite == gradients == "True"
    assert float(solved) > 0.99
    assert float(bias_g_cm2) < 0.02
