"""Record runs, so that they can be repeated."""
