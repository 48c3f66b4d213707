"""Code that knows nothing about environments: errors, values, files, file locks."""
