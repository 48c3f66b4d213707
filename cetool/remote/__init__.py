"""The client of a server: answers to requests, environments by name."""
