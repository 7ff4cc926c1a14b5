"""Minimisation of many small independent problems, and the derivative of the minimum."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "newton": ["DampedNewton"],
        "nelder_mead": ["NelderMead"],
        "unrolled": ["UnrolledNewton"],
        "implicit": ["implicit_minimum"],
        "quadratic": ["Quadratic", "Objective", "Solver", "Bounds", "Solution"],
    },
)
