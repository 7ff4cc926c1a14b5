"""Checks of scan files: each fault is one sentence with a remedy."""
