"""Measure cetool and the programs that it is compared with; ``nox -s benchmark`` runs it."""
