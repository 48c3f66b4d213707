"""Settings of cetool and conda's configuration."""
