"""Where environments live, and for how long."""
