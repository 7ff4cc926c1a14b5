"""Minimisation of many small independent problems, and its derivative; knows no CT."""
