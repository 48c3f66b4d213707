"""Scripts and files from URLs."""
