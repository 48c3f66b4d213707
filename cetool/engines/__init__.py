"""Engines, the programs that make environments: one protocol, and its implementations."""
