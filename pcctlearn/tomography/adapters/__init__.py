"""Projectors of other libraries as linear operators: peers to compare with, or to compute with."""
