"""Changes to what a script declares."""
