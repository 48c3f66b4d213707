"""What knows nothing of environments: errors, values, files, file locks."""
