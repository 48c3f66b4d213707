"""What ran, written down so that it can run again."""
