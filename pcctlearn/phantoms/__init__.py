"""Objects to scan: analytic ellipses, procedural anatomy, and patients out of CT slices."""
