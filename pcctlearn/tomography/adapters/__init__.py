"""Projectors of other libraries as linear operators."""
