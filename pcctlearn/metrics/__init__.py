"""What is quoted in results: errors of maps, images and thresholds."""
