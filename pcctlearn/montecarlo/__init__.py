"""Monte Carlo photon transport: detector responses and object scatter."""
