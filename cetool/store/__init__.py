"""Where environments are kept, and for how long."""
