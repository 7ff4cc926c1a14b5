"""What the numbers of the README come from, beside peers timed in the same run."""
