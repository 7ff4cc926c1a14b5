"""Errors of scatter corrections in [1, Table II], to be shown beside ours."""

from pcctlearn.metrics.errors import Rows

# quantity: uncorrected, empirical kernel, network with direct and with cross-domain learning
_TABLE_II = {
    "SPR (%)": (10.47, 5.56, 2.30, 2.12),
    "projection water (cm)": (0.2587, 0.1297, 0.0632, 0.0628),
    "projection calcium (cm)": (0.0374, 0.0332, 0.0146, 0.0113),
    "image water (mg/mL)": (34.95, 19.43, 11.80, 10.06),
    "image calcium (mg/mL)": (17.10, 6.06, 5.51, 4.38),
    "VMI 60 keV (HU)": (68.82, 30.16, 20.13, 17.60),
}


def published_shares() -> Rows:
    """The uncorrected errors of [1], and the shares that its corrections leave."""
    rows = [
        [name, f"{before:g}", *(f"{value / before:.3f}" for value in after)]
        for name, (before, *after) in _TABLE_II.items()
    ]
    title = "other heads, scanner and reference: uncorrected error and shares left in [1, Table II]"
    return Rows(title, ["result", "uncorrected", "kernel", "direct", "cross-domain"], rows)
