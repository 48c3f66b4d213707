"""Builds: which one is next, its process, its limits, its log."""
