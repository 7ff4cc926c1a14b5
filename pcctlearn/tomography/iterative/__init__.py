"""Images from sinograms by iteration, for any linear operator."""
