"""Simulated scans: the simulator, and sets of scans made with it."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "simulator": ["ScanSimulator"],
        "scans": ["SimulatedScans"],
    },
)
