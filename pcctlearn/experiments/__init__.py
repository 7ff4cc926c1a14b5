"""The studies: build, run, write down."""
