"""One file for each study: scan, fit, measure, report."""
