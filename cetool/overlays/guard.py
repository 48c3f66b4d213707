"""Put an overlay into the base's Python, and into no other: a ``sitecustomize`` in a separate directory.

Only that directory is on the PYTHONPATH. Every Python that starts looks there; one whose prefix is not the base imports
its own ``sitecustomize`` and works as without the guard. The base's Python puts the overlay's directories, with their
``.pth`` files, before its own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cetool.base.below import write_below
from cetool.overlays.base import Base, site_directories

#: Path of the guard in an overlay; :mod:`cetool.warm.environ`, which imports nothing, repeats it.
GUARD = "lib/cetool-overlay"
#: Python 2 must be able to skip it.
_TEXT = '''\
"""Puts a cetool overlay before the packages of its base, in the base's Python only."""
import os
import sys

_BASE = @BASE@
_VERSION = @VERSION@
_PLACES = @PLACES@


def _same(one, other):
    try:
        return os.path.samefile(one, other)
    except (OSError, AttributeError):
        return False


def _lay(places):
    import site

    own = []
    for find in ("getsitepackages", "getusersitepackages"):
        try:
            found = getattr(site, find)()
        except Exception:
            continue
        own += [found] if isinstance(found, str) else found
    own = [os.path.normcase(os.path.abspath(place)) for place in own]
    path, finders = list(sys.path), list(sys.meta_path)
    at = len(path)
    for number, entry in enumerate(path):
        if os.path.normcase(os.path.abspath(entry)) in own:
            at = number
            break
    sys.path[at:at] = places
    for place in places:
        site.addsitedir(place)
    # .pth files append their entries, and the base's packages would hide those
    added = [entry for entry in sys.path if entry not in path and entry not in places]
    rest = [entry for entry in sys.path if entry not in places and entry not in added]
    at = min(at, len(rest))
    sys.path[:] = rest[:at] + places + added + rest[at:]
    new = [finder for finder in sys.meta_path if finder not in finders]
    default = [number for number, finder in enumerate(sys.meta_path) if _is_default(finder)]
    if default:
        late = [finder for finder in new if sys.meta_path.index(finder) > default[0]]
        kept = [finder for finder in sys.meta_path if finder not in late]
        sys.meta_path[:] = kept[: default[0]] + late + kept[default[0]:]
    # namespace packages that a .pth file of the base has created only have the base's part
    for name, module in list(sys.modules.items()):
        parts = getattr(module, "__path__", None)
        if isinstance(parts, list) and getattr(module, "__file__", None) is None and "." not in name:
            more = [os.path.join(place, name) for place in places]
            parts[:0] = [entry for entry in more if os.path.isdir(entry) and entry not in parts]


def _place(part):
    return os.path.normpath(os.path.join(_here, *part.split("/")))


def _is_default(finder):
    return getattr(finder, "__name__", "") == "PathFinder"


def _pass_on(here):
    """Import the sitecustomize that this one hides."""
    ours = sys.modules.pop(__name__, None)
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != here]
    try:
        __import__(__name__)
    except ImportError as error:
        if getattr(error, "name", __name__) != __name__:
            raise
    finally:
        if ours is not None:
            sys.modules.setdefault(__name__, ours)


_here = os.path.dirname(os.path.abspath(__file__))
if tuple(sys.version_info[:2]) == _VERSION and _same(sys.prefix, _BASE):
    _lay([place for place in map(_place, _PLACES) if os.path.isdir(place)])
if __name__ == "sitecustomize":
    _pass_on(_here)
'''


def guard_of(prefix: Path) -> Path:
    """Return the directory to put on the PYTHONPATH for the overlay at ``prefix``."""
    return prefix / GUARD


def write_guard(prefix: Path, base: Base) -> None:
    """Write the guard of the overlay at ``prefix``, for the directories that it has at this point."""
    guard = guard_of(prefix)
    places = [os.path.relpath(place, guard).replace(os.sep, "/") for place in site_directories(prefix)]
    values = {"@BASE@": str(base.prefix), "@VERSION@": base.version[:2], "@PLACES@": places}
    text = _TEXT
    for mark, value in values.items():
        # JSON is also valid in both versions of Python; a tuple stays a tuple
        text = text.replace(mark, json.dumps(value) if not isinstance(value, tuple) else repr(value))
    write_below(prefix, f"{GUARD}/sitecustomize.py", text.encode(), parents=True)
