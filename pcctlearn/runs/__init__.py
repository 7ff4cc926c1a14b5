"""A run: its job, its folder, its results and its report."""
