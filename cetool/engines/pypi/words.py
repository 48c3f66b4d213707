"""What uv and pip print when they fail, as one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from cetool.base.errors import EngineError
from cetool.engines.subprocesses import Ended

_UV_CROSS = "\N{MULTIPLICATION SIGN}"
_UV_DRAWING = re.compile(rf"^[\s{_UV_CROSS}╰├│─▶╭·]+", re.MULTILINE)
#: The traceback of a package's own build, but for its last line, which says what went wrong in it.
_TRACEBACK = re.compile(
    r"(?:^[ \t]*\[std\w+\]\n)?^(?P<indent>[ \t]*)Traceback \(most recent call last\):\n(?:(?P=indent)[ \t]+.*\n)+",
    re.MULTILINE,
)
#: pip's newer errors: what happened follows a cross, the reason an arrow.
_PIP_CROSS = re.compile(rf"^{_UV_CROSS} (?P<what>.+)\n(?:.*\n)*?╰─> (?P<why>.+)$", re.MULTILINE)


def explain(
    ended: Ended, installer: str, pins: Mapping[str, str], *, log: Path, offline: bool, what: str
) -> EngineError:
    """What the installer (``uv`` or ``pip``) failed at; ``pins`` are what was to stay, ``what`` says what cannot be."""
    if ended.status is None:
        return EngineError(f"{installer} was ended by signal {ended.signum}", log=str(log))
    reason = uv_reason(ended.stderr.strip()) if installer == "uv" else pip_reason(f"{ended.stdout}\n{ended.stderr}")
    code, hint = "pypi-failed", "Look at the log; it has everything that was printed."
    pinned = [name for name, version in pins.items() if f"{name}=={version}" in reason.lower()]
    if offline and re.search(r"network was disabled|offline|in the cache|No matching", reason, re.IGNORECASE):
        code = "offline-missing"
        hint = "Run it once without --offline" + ("." if installer == "uv" else "; only uv can install from its cache.")
    elif pinned:
        code = "pypi-conflict"
        hint = f"{', '.join(pinned)} came with conda and must stay: let the versions agree, or leave it to one of them."
    elif re.search(r"dns error|connect|failed to fetch|cannot be reached", reason, re.IGNORECASE):
        code = "index-unreachable"
        hint = "Check the network and the index; --offline works with what uv has cached."
    elif re.search(r"not found in the package registry|No matching distribution|is available|no versions? of", reason):
        code = "pypi-not-found"
        hint = "Check the name and the versions; is it on another index?"
    if what == "found" and re.search(r"unexpected argument|invalid value", reason):
        code = "installer-too-old"
        hint = "This uv is too old to lock with: update it."
    return EngineError(f"the PyPI packages cannot be {what}: {reason}", code=code, hint=hint, log=str(log))


def uv_reason(text: str) -> str:
    """uv's error as one sentence: what follows its cross, without the drawing."""
    text = _TRACEBACK.sub("", text)
    start = max(text.find(_UV_CROSS), 0) or max(text.find("error: "), 0)
    sentence = " ".join(_UV_DRAWING.sub("", text[start:]).split())
    sentence = re.sub(r"^(error: )?No solution found when resolving dependencies:?( cause:)? |^error: ", "", sentence)
    sentence = re.sub(r", we can conclude that [^.]*unsatisfiable", "", sentence.split(" hint: ")[0])
    return _short(sentence.replace(" cause: ", ": "))


def pip_reason(text: str) -> str:
    """pip's errors as one sentence; where it has several lines for one, the first says most."""
    conflict = re.search(r"The conflict is caused by:\n((?:    .*\n)+)", text)
    if conflict:
        return _short("; ".join(line.strip() for line in conflict[1].splitlines()))
    errors = [line.removeprefix("ERROR: ").strip() for line in text.splitlines() if line.startswith("ERROR: ")]
    if not errors and (told := _PIP_CROSS.search(text)):
        errors = [f"{told['what'].rstrip('.')}: {told['why']}"]
    errors = errors or [line.strip() for line in text.splitlines()[-1:]]
    trouble = re.search(r"WARNING: Retrying .* after connection broken by '(\w+)[^']*?(: [^':]+)?'", text)
    if built := _TRACEBACK.search(text):
        errors.append(text[built.end() :].partition("\n")[0].strip())
    if trouble and "from versions: none" in text:
        errors.insert(0, f"the index cannot be reached ({trouble[1]})")
    return _short("; ".join(dict.fromkeys(errors)))


def _short(sentence: str) -> str:
    sentence = sentence.strip().rstrip(".")
    return sentence if len(sentence) <= 600 else sentence[:597] + "..."
