"""Support for tests: a real conda channel, an HTTP server with faults, wrappers of the command line.

``tests/`` is on ``sys.path`` (``pythonpath`` in pyproject.toml), so tests write ``from support.channel import ...``.
The modules that build the channel only need the standard library and pip: ``nox -s demo`` uses them too.
"""
