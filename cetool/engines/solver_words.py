"""Reads the solvers' explanations: which packages no channel has, and why specs do not go together."""

from __future__ import annotations

import re
from collections.abc import Sequence

# conda: a list under one of its sentences
_LISTED = re.compile(
    r"(?:not available from current channels:|PackagesNotFoundError:[^\n]*|ResolvePackageNotFound:)\s*\n"
    r"(?P<list>(?:\s+- [^\n]*\n?)+)"
)
# micromamba: the top of its tree
_TOP = re.compile(r"^\s*[├└]─ (?P<spec>\S.*?) does not exist \(perhaps a typo", re.MULTILINE)
# conda's rattler solver and py-rattler: a root without candidates
_ROOT = re.compile(
    r"(?:because of: |^[├└]─ )(?P<spec>\S[^\n]*?), for which no candidates were found|"
    r"No candidates were found for (?P<other>[^\n]+?)\.?$",
    re.MULTILINE,
)
_TREE = re.compile(
    r"(?:Cannot solve the request because of: |Encountered problems while solving:|"
    r"The following specifications were found[^\n]*|Could not solve for environment specs\n)"
    r"(?P<tree>.*?)(?=^critical libmamba|^error    libmamba|\Z|\n\n\n)",
    re.DOTALL | re.MULTILINE,
)
_HEADING = re.compile(
    r"The following packages? (?:are incompatible|could not be installed)$|Could not solve|unsupported request"
)
_LONGEST = 900


def missing_packages(words: str, packages: Sequence[str]) -> list[str]:
    """The specs that the engine found no package for, in the form in which they were asked for where that is clear."""
    specs: list[str] = []
    for match in _LISTED.finditer(words):
        specs += [line.strip()[2:] for line in match["list"].splitlines() if line.strip().startswith("- ")]
    specs += [match["spec"] for match in _TOP.finditer(words)]
    specs += [match["spec"] or match["other"] for match in _ROOT.finditer(words)]
    return list(dict.fromkeys(_as_asked(spec, packages) for spec in specs if spec.strip()))


def _as_asked(spec: str, packages: Sequence[str]) -> str:
    name = _name(spec)
    same = [package for package in packages if _name(package) == name]
    return same[0] if len(same) == 1 else spec.replace(" =* *", "").strip()


def _name(spec: str) -> str:
    match = re.match(r"(?:[^\s\[]*::)?([A-Za-z0-9_.-]+)", spec.strip())
    return match[1].lower() if match else spec.strip().lower()


def unsatisfiable_reason(words: str) -> str | None:
    """Why the specs cannot be had together, the solver's tree as one sentence; None where no solver speaks."""
    match = _TREE.search(words)
    if match is None:
        return None
    clauses: list[str] = []
    for line in match["tree"].splitlines():
        text = re.sub(r"^[\s│├└─]+", "", line).strip().rstrip(";,")
        text = re.sub(r" =\* \*(?=\s|$)", "", text)  # micromamba's way to write "any"
        text = re.sub(r"(?<=[=<>\d]) \*(?=[\s,;]|$)|(?<=[=<>][^\s]) \*(?=[\s,;]|$)", "", text)
        if text and not _HEADING.match(text):
            clauses.append(text.removeprefix("- "))
    sentence = ""
    for clause in clauses:
        opens = sentence.endswith((":", "require", "requires"))
        sentence += ("" if not sentence else " " if opens else "; ") + clause
    sentence = sentence.strip()
    if len(sentence) > _LONGEST:
        sentence = sentence[:_LONGEST].rsplit("; ", 1)[0] + "; and more, which the log has"
    return sentence or None
