"""Losses on any stage of the chain."""
