"""The protocol of objectives and solvers: their arguments and results."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Quadratic(NamedTuple):
    """Value, gradient and Hessian of an objective at x, one independent problem per ray.

    ``rounding`` is the rounding error of ``value``: smaller differences are not significant.
    """

    value: Float[Tensor, "*ray"]
    gradient: Float[Tensor, "*ray unknown"]
    hessian: Float[Tensor, "*ray unknown unknown"]
    rounding: Float[Tensor, "*ray"]


class Bounds(NamedTuple):
    """Limits of x; infinite where there is none."""

    lower: Float[Tensor, "unknown"]
    upper: Float[Tensor, "unknown"]


class Solution(NamedTuple):
    """The minimum of each ray, and whether the solver reached it."""

    x: Float[Tensor, "*ray unknown"]
    converged: Bool[Tensor, "*ray"]


# objective(x, *theta, exact=True): value and derivatives at x, one independent problem per ray.
# With exact=False the Hessian may be its expectation, which is cheaper and never indefinite.
Objective = Callable[..., Quadratic]

_Marked = TypeVar("_Marked", bound=Objective)


def of_rays(n_theta: int) -> Callable[[_Marked], _Marked]:
    """Mark an objective whose first ``n_theta`` arguments after x have one row for each ray.

    All others are shared by the rays. Solvers may leave out rays of such an objective.
    """

    def mark(objective: _Marked) -> _Marked:
        vars(objective)["n_of_rays"] = n_theta
        return objective

    return mark


def n_of_rays(objective: Objective) -> int:
    """The number given to ``of_rays``; 0 for an objective without a mark."""
    return getattr(objective, "n_of_rays", 0)


def take(values: Tensor, index: Int[Tensor, "some"]) -> Tensor:
    """Rows of the first axis, which is last in memory, as in the values."""
    return values.movedim(0, -1)[..., index].movedim(-1, 0)


# solver(objective, start, theta, bounds): the minimum over x. theta contains everything that the
# objective depends on, so that a compiled solver can read it.
Solver = Callable[[Objective, Tensor, tuple[Tensor, ...], Bounds | None], Solution]


def free_unknowns(
    x: Float[Tensor, "*ray unknown"], gradient: Float[Tensor, "*ray unknown"], bounds: Bounds
) -> Bool[Tensor, "*ray unknown"]:
    """True where x may move: inside the box, or on a limit from which the descent leads inside."""
    held_below = (x <= bounds.lower) & (gradient > 0)
    held_above = (x >= bounds.upper) & (gradient < 0)
    return ~(held_below | held_above)
