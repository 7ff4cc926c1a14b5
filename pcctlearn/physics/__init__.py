"""Spectral physics: attenuation, spectra, responses, thresholds, likelihood."""
