"""Monte Carlo simulation of the scatter of an object."""
