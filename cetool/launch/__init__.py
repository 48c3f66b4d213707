"""How a script becomes a process."""
