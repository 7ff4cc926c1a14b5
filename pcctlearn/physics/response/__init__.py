"""Detector responses: how often a photon of one energy is registered above another."""
