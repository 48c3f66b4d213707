"""Packages: what is installed in a prefix, and what an engine keeps of it."""
