"""What can be wrong with a scan, found and told with a remedy."""
