"""A differentiable photon-counting CT chain: counts, material decomposition, reconstruction."""
