"""Counts to basis-material line integrals."""
