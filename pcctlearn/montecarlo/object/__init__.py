"""Scatter of an object: photons from the source through voxels to the panel."""
