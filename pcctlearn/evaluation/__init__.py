"""Scatter corrections applied to scans, and their errors where the truth is known."""
