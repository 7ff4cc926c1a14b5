"""Compiled loops of the projectors, and the coefficients that they read."""
