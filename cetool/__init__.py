"""cetool runs a script in the conda environment that the script itself declares."""

__version__ = "0.1.0"
