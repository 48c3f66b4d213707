"""What puts an overlay into the base's python, and into no other: a ``sitecustomize`` in a directory of its own.

That directory alone is on the PYTHONPATH. Every Python that is started looks there; one whose prefix is not the base
passes on to its own ``sitecustomize`` and is as it would be without. The base's python puts the overlay's directories
before its own, with their ``.pth`` files.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cetool.base.below import write_below
from cetool.overlays.base import Base, site_directories

#: Where in an overlay the guard lies: as :mod:`cetool.warm.environ`, which imports nothing, has it too.
GUARD = "lib/cetool-overlay"
#: Python 2 has to be able to pass it by, too.
_TEXT = '''\
"""Puts an overlay of cetool's before the packages of its base, in the base's python alone."""
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
    # what .pth files add comes at the end, where the base's packages would hide it
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
    # namespaces that a .pth file of the base has made already know of the base's part alone
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
    """Import the sitecustomize that this one stands before, as if this one were not there."""
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
    """The directory that is put on the PYTHONPATH for the overlay at ``prefix``."""
    return prefix / GUARD


def write_guard(prefix: Path, base: Base) -> None:
    """Write the guard of the overlay at ``prefix``, for the directories that it has by now."""
    guard = guard_of(prefix)
    places = [os.path.relpath(place, guard).replace(os.sep, "/") for place in site_directories(prefix)]
    values = {"@BASE@": str(base.prefix), "@VERSION@": base.version[:2], "@PLACES@": places}
    text = _TEXT
    for mark, value in values.items():
        # JSON's text is Python's as well, of either Python; a tuple stays one
        text = text.replace(mark, json.dumps(value) if not isinstance(value, tuple) else repr(value))
    write_below(prefix, f"{GUARD}/sitecustomize.py", text.encode(), parents=True)
