"""Linear maps between images and sinograms, their adjoints and their inverses."""
