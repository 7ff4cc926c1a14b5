"""Benchmarks behind the numbers in README.md, with peers timed in the same run."""
