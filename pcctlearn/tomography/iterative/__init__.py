"""Iterative reconstruction with any linear operator."""
