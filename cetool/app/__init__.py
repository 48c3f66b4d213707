"""Use cases: one function each, from values to a value."""
