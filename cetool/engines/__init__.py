"""Who makes environments: one protocol, one module a program."""
