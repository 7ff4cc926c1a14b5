"""Detector calibration through the decomposition layer."""
