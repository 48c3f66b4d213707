"""cetool runs a script in the conda environment that the script itself declares."""
