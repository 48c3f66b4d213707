"""HTTP: the native API, conda-store's API, and web pages."""
