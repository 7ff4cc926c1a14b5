"""Errors of projections and images, in the units of the field."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "errors": ["ErrorTable"],
    },
)
