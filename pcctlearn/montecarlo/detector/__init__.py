"""Photons in a sensor: the response of a detector, simulated."""
