"""Problems, files and scanners that several tests use."""
