"""Lightning modules that train scatter corrections and fit thresholds."""
