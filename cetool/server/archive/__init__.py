"""Archives of environments: a ``.tar.gz`` that works at any path, written from an environment's package records."""
