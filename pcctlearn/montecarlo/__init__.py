"""Photons one by one: what a detector registers, and what an object scatters into it."""
