"""How far a result is from the truth, in the units of the field."""
