"""Time of each stage of a training step."""

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from pcctlearn.chain import Chain
from pcctlearn.losses.stage import TotalLoss
from pcctlearn.scan import STAGES, Scan


def step_seconds(
    chain: Chain, loss: TotalLoss, target: Scan, n_repeats: int = 3
) -> dict[str, dict[str, float]]:
    """{stage: {"forward", "backward"}}: seconds of each stage and of "loss", the best of n_repeats.

    Each stage runs forward and backward separately. The times sum to a training step without the
    optimizer.
    """
    best: dict[str, dict[str, float]] = {}
    for _ in range(n_repeats):
        for name, times in _once(chain, loss, target).items():
            for direction, seconds in times.items():
                before = best.setdefault(name, {}).get(direction, float("inf"))
                best[name][direction] = min(before, seconds)
    chain.zero_grad()
    return best


def _once(chain: Chain, loss: TotalLoss, target: Scan) -> dict[str, dict[str, float]]:
    times: dict[str, dict[str, float]] = {}
    leaves: list[tuple[str, Tensor, Tensor]] = []  # stage, its output, and the leaf copied from it
    scan = Scan(counts=target.at("counts"))
    for stage in STAGES[1 : STAGES.index(loss.deepest) + 1]:
        if stage == "expected_counts" and not loss.expects:
            continue
        if stage == "linear_counts" and chain.linearise is None:
            continue
        out, forward = _timed(partial(_stage, chain, scan, stage))
        leaf = out.detach().requires_grad_()
        leaves.append((stage, out, leaf))
        scan = Scan(**{**vars(scan), stage: leaf})
        times[stage] = {"forward": forward}
    total, forward = _timed(lambda: torch.stack(list(loss(scan, target).values())).sum())
    _, backward = _timed(total.backward)
    times["loss"] = {"forward": forward, "backward": backward}
    for stage, out, leaf in reversed(leaves):
        gradient = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
        _, times[stage]["backward"] = _timed(partial(out.backward, gradient))
    return times


def _stage(chain: Chain, scan: Scan, stage: str) -> Tensor:
    return chain.resume(scan, stage).at(stage)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, perf_counter() - began
