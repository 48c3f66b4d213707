"""Which packages exactly: lock files of every format, from one model and back."""
