"""Raw frames of a bench, and their description, to plate and scan files (docs/bench.md)."""
