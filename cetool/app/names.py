"""Names of environments, whole and abbreviated; :mod:`cetool.app.targets` also takes scripts and overlays."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cetool.app.world import World
from cetool.base.errors import StoreError
from cetool.base.text import counted, shorten
from cetool.declare.environment import NAME_LENGTH, EnvironmentSpec
from cetool.store.store import Directory, Marker

#: Fewer hex digits than this do not abbreviate a name.
LEAST_TYPED = 4
#: Digits of an abbreviated name where fewer would be unique: it stays unique when more environments are made.
LEAST_SHOWN = 8
#: Candidates that an error lists.
_MOST_LISTED = 10

_NAME = re.compile(rf"[0-9a-f]{{{NAME_LENGTH}}}(?:-\d{{1,4}})?")
_SHORT = re.compile(rf"([0-9a-f]{{{LEAST_TYPED},{NAME_LENGTH - 1}}})(-\d{{1,4}})?")


def named_directories(word: str, world: World) -> list[Directory] | None:
    """Return the directories of the environment that a name, an abbreviated name or a prefix means.

    None means that the word may be a script instead. The list is empty if the word has the form of a name or a prefix
    and the environment does not exist. A file wins over an abbreviation, and a whole name over a file. Raises
    StoreError if an abbreviation fits several environments.
    """
    if _NAME.fullmatch(word):
        return [each for each in world.store.directories() if word in (each.name, each.prefix.name)]
    path = Path(word).absolute()
    if os.path.realpath(path.parent) == os.path.realpath(world.paths.envs):
        return [each for each in world.store.directories() if each.prefix.name == path.name]
    short = _SHORT.fullmatch(word)
    if short is None or os.path.lexists(word):
        return None
    digits, number = short[1], short[2] or ""
    fitting = [each for each in world.store.directories() if each.name.startswith(digits)]
    found = [each for each in fitting if not number or each.prefix.name == each.name + number]
    if len({each.name for each in found}) > 1:
        raise _ambiguous(word, found)
    return found or None


def _ambiguous(word: str, found: Sequence[Directory]) -> StoreError:
    names = {each.name: each.marker for each in found}
    short = shortest_names(names)
    shown = [f"{short[name]} ({summary(marker)})" for name, marker in names.items()]
    more = f" and {len(shown) - _MOST_LISTED} more" if len(shown) > _MOST_LISTED else ""
    return StoreError(
        f"'{word}' could be any of {counted(len(names), 'environment')}",
        about=word,
        code="name-ambiguous",
        hint=f"Type more of the name: {', '.join(shown[:_MOST_LISTED])}{more}.",
    )


def summary(marker: Marker | None) -> str:
    """Return in a few words what an environment was made from."""
    if marker is None:
        return "incomplete"
    spec = marker.spec.redacted()
    return shorten(", ".join((*spec.packages, *spec.pypi)) or "locked packages", 40)


def full_name(word: str, names: Iterable[str], what: str) -> str:
    """Return the one of these names that begins with the word, which may be all of it; the word itself for none.

    ``what`` is what the names are of. Raises StoreError where several names begin with the word.
    """
    known = list(names)
    fitting = [word] if word in known else [name for name in known if word and name.startswith(word)]
    if len(fitting) > 1:
        raise StoreError(
            f"'{word}' could be any of {counted(len(fitting), what)}",
            about=word,
            code="name-ambiguous",
            hint=f"Type more of the name: {', '.join(sorted(fitting)[:_MOST_LISTED])}.",
        )
    return fitting[0] if fitting else word


def shortest_names(names: Iterable[str], least: int = LEAST_SHOWN) -> dict[str, str]:
    """Return for each name its shortest beginning that no other name has, of at least ``least`` characters."""
    ordered = sorted(set(names))
    lengths = dict.fromkeys(ordered, least)
    for one, other in pairwise(ordered):
        length = least
        while one[:length] == other[:length]:
            length += 1
        lengths[one] = max(lengths[one], length)
        lengths[other] = length
    return {name: name[:length] for name, length in lengths.items()}


def missing(problem: str, target: str, hint: str | None = None) -> StoreError:
    """Return the error for an environment that does not exist."""
    hint = hint or "`cetool list` shows all environments."
    return StoreError(problem, about=target, code="environment-not-found", hint=hint)


# --- one that is looked into ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """A complete environment, or an overlay, that a command looks into."""

    name: str
    prefix: Path
    marker: Marker
    #: What was asked for: by the script if one was named, else by the one that the environment was made for.
    spec: EnvironmentSpec

    @property
    def base(self) -> Path | None:
        """The environment that it lies over, None where it stands by itself."""
        return None if self.spec.overlay is None else Path(self.spec.overlay.base)


def named_target(word: str, world: World) -> Target | None:
    """Return the environment that a name, an abbreviated name or a prefix means; None where the word means a script.

    A file wins over a name. Raises StoreError where the environment does not exist, or several fit.
    """
    found = None if os.path.isfile(word) else named_directories(word, world)
    if found is None:
        return None
    if not found:
        raise missing(f"there is no environment called {word!r}", word)
    return complete_target(found, word)


def complete_target(found: Iterable[Directory], word: str) -> Target:
    """Return the newest complete one of an environment's directories. Raises StoreError where there is none."""
    complete = [(marker, each) for each in found if (marker := each.marker) is not None]
    if not complete:
        raise StoreError(f"the environment {word} is not complete", about=word, code="environment-gone")
    marker, directory = max(complete, key=lambda pair: pair[0].created)
    return Target(directory.name, directory.prefix, marker, marker.spec)
