"""cetool's settings and conda's configuration."""
