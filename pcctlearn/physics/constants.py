"""Physical constants, and the characteristic lines and absorption edges of sensors."""

import xraylib

ELECTRON_REST_keV = 510.99895

K_LINES = [
    xraylib.KL3_LINE,
    xraylib.KL2_LINE,
    xraylib.KM3_LINE,
    xraylib.KM2_LINE,
    xraylib.KN3_LINE,
    xraylib.KN2_LINE,
]
K_EDGES_keV = (26.711, 31.814)  # of cadmium and tellurium
LOWEST_K_EDGE_keV = 10.0  # fluorescence of lower energy is reabsorbed locally
