"""Change what a script declares."""
