"""What a script says about itself, and the environment that this describes."""
