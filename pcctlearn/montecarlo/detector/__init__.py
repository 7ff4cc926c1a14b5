"""Monte Carlo simulation of the response of a detector."""
