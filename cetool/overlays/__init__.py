"""Overlays: packages laid over an environment that stays unchanged."""
