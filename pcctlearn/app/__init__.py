"""The command line: configuration, its checks, the driver, sweeps and comparisons."""
