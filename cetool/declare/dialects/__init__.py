"""The formats in which scripts declare environments: one module for each."""
