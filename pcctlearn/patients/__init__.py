"""CT volumes of patients and procedural patients: objects to scan, as maps of materials."""

from pcctlearn.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "cases": ["Cases"],
        "ct_layouts": ["NiftiCases", "DicomCases", "KitsCases", "SinoctCases"],
        "variants": ["Variants"],
    },
)
