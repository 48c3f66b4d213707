"""Read what a script declares, and describe the environment that it needs."""
