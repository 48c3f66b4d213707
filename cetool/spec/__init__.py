"""What an environment is, and how a script says so."""
