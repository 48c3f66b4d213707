"""The states of configuration files before they are read: a launch record holds as long as they do."""

from __future__ import annotations

import os
from collections.abc import Iterable

from cetool.warm import file_state


def states(paths: Iterable[str]) -> dict[bytes, bytes]:
    """The :func:`~cetool.warm.file_state` of files and directories, and of the YAML files in the latter.

    Of what is missing, the highest directory that is missing tells for all that could be in it.
    """
    found: dict[bytes, bytes] = {}
    for path in paths:
        at = _highest_missing(os.fsencode(os.path.abspath(path)))
        if at in found:
            continue
        found[at] = file_state(at)
        if os.path.isdir(at):  # a file in it that is written to does not change it
            for entry in os.scandir(at):
                if entry.name.endswith((b".yml", b".yaml")):
                    found[entry.path] = file_state(entry.path)
    return found


def _highest_missing(path: bytes) -> bytes:
    while not os.path.lexists(path):
        above = os.path.dirname(path)
        if above == path or os.path.isdir(above):
            break
        path = above
    return path
