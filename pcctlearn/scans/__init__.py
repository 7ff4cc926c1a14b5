"""Scans on disk, measured or simulated: schema, reader, writer, data sets, dead pixels."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "file": ["read_scan", "write_scan"],
        "record": ["ScanRecord"],
        "folder": ["ScanFiles"],
        "data_set": ["ScanSet"],
        "flat_field": ["FlatFielded"],
    },
)
