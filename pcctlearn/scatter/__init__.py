"""What an object scatters into the counts, estimated from the counts themselves."""
