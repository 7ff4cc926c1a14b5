"""Reading files that may be damaged, hostile or far too large."""
