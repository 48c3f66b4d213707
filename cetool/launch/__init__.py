"""Start a script's process in its environment."""
