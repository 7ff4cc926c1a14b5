"""Detector responses: events registered above an energy, per incident photon."""
