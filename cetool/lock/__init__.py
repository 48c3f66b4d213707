"""Which packages exactly: lock files of every format, from one model and back."""

#: What is added to a script's path for the lock beside it, by format, the one that counts first.
SUFFIXES = {"conda-lock": ".conda-lock.yml", "pixi": ".pixi.lock"}
#: What every script with an embedded lock has in it.
EMBEDDED_MARK = "/// cetool-lock"
