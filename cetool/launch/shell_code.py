"""What a shell evaluates to change its own environment, and to change it back: for ``eval "$(...)"``.

For bash, zsh and fish. Everything that depends on the caller's environment is found out before, so that the code is
plain assignments; what was there before is kept in a function, which ``cetool overlay deactivate`` calls.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: The function that undoes it.
UNDO = "cetool_overlay_deactivate"
SHELLS = ("bash", "zsh", "fish")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
#: Set by shells themselves, each for itself.
_OWN = frozenset(("_", "SHLVL", "PWD", "OLDPWD", "PS1"))
_UNSAFE = re.compile(r"[^A-Za-z0-9._+,=-]+")


@dataclass(frozen=True)
class Change:
    """An environment that a shell is to have: ``before`` are its variables now, ``after`` those that it gets.

    ``steps`` are scripts to source and settings to make then; ``ending`` the scripts that are sourced before it is
    undone; ``label`` is shown in the prompt.
    """

    before: Mapping[str, str]
    after: Mapping[str, str]
    steps: Sequence[str] = ()
    ending: Sequence[str] = ()
    label: str = ""

    @property
    def names(self) -> list[str]:
        """The variables that change."""
        names = sorted(self.before.keys() | self.after.keys())
        changed = [name for name in names if self.before.get(name) != self.after.get(name)]
        return [name for name in changed if _NAME.match(name) and name not in _OWN]


def shell_code(shell: str, change: Change) -> str:
    """The code for ``shell``, one of :data:`SHELLS`."""
    return _fish(change) if shell == "fish" else _posix(change)


def _posix(change: Change) -> str:
    label = shlex.quote(f"({_UNSAFE.sub('_', change.label)}) ")
    lines = [_assigned(name, change.after) for name in change.names]
    lines += [_step(step) for step in change.steps]
    lines += [
        'if [ -n "${PS1-}" ]; then __cetool_ps1=$PS1; PS1=' + label + "$PS1; fi",
        f"{UNDO}() {{",
        *(f"  {_step(step)}" for step in change.ending),
        *(f"  {_assigned(name, change.before)}" for name in change.names),
        '  if [ -n "${__cetool_ps1+x}" ]; then PS1=$__cetool_ps1; unset __cetool_ps1; fi',
        f"  unset -f {UNDO}",
        "  hash -r 2>/dev/null || :",
        "}",
        "hash -r 2>/dev/null || :",
    ]
    return "\n".join(lines) + "\n"


def _assigned(name: str, values: Mapping[str, str]) -> str:
    return f"export {name}={shlex.quote(values[name])}" if name in values else f"unset {name}"


def _step(step: str) -> str:
    if not os.path.isabs(step):
        name, _, value = step.partition("=")
        return f"export {name}={shlex.quote(value)}"
    return f"if [ -r {shlex.quote(step)} ]; then . {shlex.quote(step)}; fi"


def _fish(change: Change) -> str:
    """fish sources no scripts of other shells: their effects are to be in ``after`` already."""
    lines = [_fish_assigned(name, change.after) for name in change.names]
    label = _fish_quote(f"({_UNSAFE.sub('_', change.label)}) ")
    lines += [
        "if status is-interactive; and functions -q fish_prompt",
        "  functions -e __cetool_overlay_prompt",
        "  functions -c fish_prompt __cetool_overlay_prompt",
        f"  function fish_prompt; printf %s {label}; __cetool_overlay_prompt; end",
        "end",
        f"function {UNDO}",
        *(f"  {_fish_assigned(name, change.before)}" for name in change.names),
        "  if functions -q __cetool_overlay_prompt",
        "    functions -e fish_prompt",
        "    functions -c __cetool_overlay_prompt fish_prompt",
        "    functions -e __cetool_overlay_prompt",
        "  end",
        f"  functions -e {UNDO}",
        "end",
    ]
    # eval joins lines by blanks in older fish: each statement ends by itself
    return ";\n".join(lines) + "\n"


def _fish_assigned(name: str, values: Mapping[str, str]) -> str:
    if name not in values:
        return f"set -e {name}"
    if name == "PATH":
        return f"set -gx PATH {' '.join(map(_fish_quote, values[name].split(os.pathsep)))}"
    return f"set -gx {name} {_fish_quote(values[name])}"


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
