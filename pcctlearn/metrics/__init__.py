"""Errors of projections and images, in the units of the field."""
