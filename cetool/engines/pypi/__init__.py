"""PyPI packages: resolved and installed by uv or pip."""
