"""The server: environments for a team, built once. Needs the extra ``server``."""
