"""A correction applied to scans, and its errors where the truth is known."""
