"""Overlays: packages laid over an environment that stays as it is. Above engines, below the cache."""
