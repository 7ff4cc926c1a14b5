"""Readers: what is on disk, in the units and axes of the house."""
