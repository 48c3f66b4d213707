"""Parse what solvers print about a conflict, and present it in one form for every engine.

rattler and libmamba draw a tree, classic conda prints lists, uv and pip write sentences. All become lines of one tree,
the conflicting specs first, and a suggestion that names the specs to change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cetool.base.text import counted, without_controls
from cetool.base.urls import redact, scrub
from cetool.engines.errors import UnsatisfiableError

#: Lines of details that are shown: with message, hint and log an error has at most 12.
_MOST_LINES = 9
#: Deeper lines of a tree become siblings.
_MOST_LEVELS = 100
#: Versions that are shown of a list of them.
_MOST_VERSIONS = 4
#: Requested specs that a message or suggestion names.
_MOST_NAMED = 4

_DRAWN = re.compile(r"^[ \t│]*[├└]─+[ \t]*(?=\S)")
#: Titles above a tree, which the error's message replaces.
_TITLE = re.compile(
    r"(?:.*(?:because of|while solving|environment specs):?\s*)?"
    r"(?:The following packages? (?:are incompatible|could not be installed):?)?\s*"
)
_BECAUSE = re.compile(r"^.*?(?:Cannot solve the request because of|No solution found[^:\n]*):\s*")
#: Classic conda: a package, and below it the chains of requirements that disagree about it.
_PACKAGE = re.compile(r"Package (\S+) conflicts for:")
_DISAGREE = " is required in versions that conflict:"
_LISTED = re.compile(r"(?:\s+- |critical libmamba (?=.*(?:requires|conflict|nothing provides)))(\S.*)")
_LISTS = re.compile(
    r"Encountered problems while solving:|The following specifications were found|^critical libmamba ", re.MULTILINE
)
_NOT_LISTED = re.compile(r"Could not solve|unsupported request|Error opening|Found incompatible")
_FAILS = re.compile(
    r"cannot be installed|not installable|not be installed|\bconflicts? with|conflict:$|does not exist|no candidates|"
    r"nothing provides|none of the providers|is excluded|is locked"
)
_ABSENT = (
    re.compile(r"^(?P<spec>.+?),? (?:for which no candidates were found|(?:which )?does not exist)"),
    re.compile(r"nothing provides (?P<spec>.+?)(?: needed by .*)?$"),
)
_BRACKET = re.compile(r"\[version='([^']*)'\]")
_ANY = re.compile(r"(?<=\S) =?\*(?=[\s,;:]|$)")
# from the start of a word only, or long words take quadratic time
_VERSIONS = re.compile(r"(?<![^\s|\[\]])[^\s|\[\]]+(?: ?\| ?[^\s|\[\]]+)+")
#: A version, or versions with ``|`` between them; a digit in a word, as in ``_cp312``.
_ANY_VERSIONS = re.compile(r"(?:\d[\w.+!*]*|\.\.\.)(?: ?\| ?(?:\d[\w.+!*]*|\.\.\.))*")
#: What stays between the words of a line; a comma between versions belongs to them.
_BETWEEN_WORDS = re.compile(r"( |,(?= ))")


@dataclass(frozen=True)
class Node:
    """A line of a solver's tree, and the lines below it."""

    text: str
    below: list[Node] = field(default_factory=list)

    @property
    def fails(self) -> bool:
        """Whether the line itself says that something is impossible."""
        return _FAILS.search(self.text) is not None


def conflict_error(
    words: str, asked: Sequence[str], channels: Sequence[str], log: str | None = None
) -> UnsatisfiableError | None:
    """Return the error for a conflict that a solver explains in ``words``; None if it explains none.

    ``asked`` are the requested specs: the suggestion names those that are involved.
    """
    roots = read_tree(scrub(without_controls(words)))
    if not roots:
        return None
    limiting = [spec for spec in _of_names(map(_name, _absent(roots)), asked) if _is_limited(spec)]
    involved = list(dict.fromkeys([*_involved(roots, asked), *limiting]))
    named = ", ".join(map(redact, involved[:_MOST_NAMED])) + (", ..." if len(involved) > _MOST_NAMED else "")
    if len(involved) == 1:
        message = f"{named!r} cannot be installed"
    else:
        message = "these packages conflict" + (f": {named}" if named else "")
    return UnsatisfiableError(
        message,
        about=", ".join(map(redact, involved or asked)) or None,
        details=draw(merged(roots)),
        hint=_suggestion(roots, involved, asked, channels),
        log=log,
    )


# --- reading --------------------------------------------------------------------------------------------------------


def read_tree(words: str) -> list[Node]:
    """Return the roots of the tree that a solver printed, conflicting ones first; empty if there is no tree."""
    lines = words.splitlines()
    roots = _drawn(lines) or _chains(lines) or list(_items(words))
    if not all(root.fails for root in roots):
        ordered = sorted(roots, key=lambda root: not root.fails)
        # what the lines refer to may come after them now
        roots = ordered if ordered == roots else [_referring(root) for root in ordered]
    return roots


def _drawn(lines: Sequence[str]) -> list[Node]:
    """Return the first tree that is drawn with ``├─`` and ``└─``."""
    first = next((number for number, line in enumerate(lines) if _DRAWN.match(line)), None)
    if first is None:
        return []
    title = _BECAUSE.sub("", lines[first - 1]).strip() if first else ""
    flat = [] if _TITLE.fullmatch(title) else [(-1, title)]
    for line in lines[first:]:
        found = _DRAWN.match(line)
        if found is None:
            break
        flat.append((found.end(), line[found.end() :]))
    roots: list[Node] = []
    above: list[tuple[int, Node]] = []
    for column, text in flat:
        while above and (above[-1][0] >= column or len(above) >= _MOST_LEVELS):
            above.pop()
        node = Node(_cleaned(text))
        (above[-1][1].below if above else roots).append(node)
        above.append((column, node))
    return roots


def _chains(lines: Sequence[str]) -> list[Node]:
    """Return classic conda's list of packages, each with the chains of requirements that disagree about it."""
    roots: list[Node] = []
    inside = False
    for line in lines:
        if found := _PACKAGE.match(line.strip()):
            roots.append(Node(f"{found[1]}{_DISAGREE}"))
            inside = True
        elif not line.strip():
            inside = False
        elif inside:
            roots[-1].below.append(Node(_cleaned(line)))
    return roots


def _items(words: str) -> Iterator[Node]:
    """Yield the items of a plain list of problems, as in libmamba's JSON and in older versions of conda."""
    if _LISTS.search(words) is None:
        return
    seen = set()
    for line in words.splitlines():
        found = _LISTED.match(line)
        if found is not None and not _NOT_LISTED.match(found[1]) and found[1] not in seen:
            seen.add(found[1])
            yield Node(_cleaned(found[1]))


def _cleaned(text: str) -> str:
    """Return a line without noise: wildcards for any version, punctuation at the end, long lists of versions."""
    text = _BRACKET.sub(r" \1", _ANY.sub("", _ANY.sub("", text.strip().rstrip(".;,"))))
    return _VERSIONS.sub(_few, re.sub(r" +(?=,)|(?<= ) +", "", text))


def _few(found: re.Match[str]) -> str:
    between = " | " if " | " in found[0] else "|"
    versions = [version.strip() for version in found[0].split("|")]
    if len(versions) <= _MOST_VERSIONS:
        return found[0]
    return between.join([*versions[: _MOST_VERSIONS - 2], "...", versions[-1]])


def _referring(node: Node) -> Node:
    text = re.sub(
        r"any installable versions previously reported|the versions reported above", "the versions below", node.text
    )
    return Node(text, [_referring(each) for each in node.below])


# --- merging --------------------------------------------------------------------------------------------------------


def merged(nodes: Sequence[Node]) -> list[Node]:
    """Return a tree with one line for sibling lines that differ only in versions, as those for each Python do."""
    groups: dict[object, list[Node]] = {}
    for node in nodes:
        groups.setdefault(_shape(node), []).append(node)
    return [
        Node(_joined([node.text for node in group]), merged([below for node in group for below in node.below]))
        for group in groups.values()
    ]


def _shape(node: Node) -> object:
    """Return what lines that can be merged have in common: their words and those below, without versions."""
    name, space, rest = node.text.partition(" ")
    return f"{name}{space}{_ANY_VERSIONS.sub('#', rest)}", frozenset(map(_shape, node.below))


def _joined(texts: Sequence[str]) -> str:
    """Return one line for several: the different parts, with ``|`` between them, in the words that all have."""
    distinct = list(dict.fromkeys(texts))
    if len(distinct) == 1:
        return distinct[0]
    words = [_BETWEEN_WORDS.split(text) for text in distinct]
    shortest = min(map(len, words))
    start = next((at for at in range(shortest) if len({each[at] for each in words}) > 1), shortest - 1)
    most = shortest - start - 1  # words that can be common at the end: each line keeps a part of its own
    end = next((at for at in range(most) if len({each[-1 - at] for each in words}) > 1), most)
    parts = ["".join(each[start : len(each) - end]) for each in words]
    if len(parts) > _MOST_VERSIONS:
        parts = [*parts[: _MOST_VERSIONS - 2], "...", parts[-1]]
    last = words[0][len(words[0]) - end :]
    return "".join((*words[0][:start], " | ".join(parts), *last))


# --- showing --------------------------------------------------------------------------------------------------------


def draw(roots: Sequence[Node]) -> tuple[str, ...]:
    """Return the lines of a tree for display; a long tree ends with the number of omitted lines."""
    return limited(list(_draw(roots, "")))


def limited(lines: Sequence[str]) -> tuple[str, ...]:
    """Return as many lines as an error may have; the last one replaces two or more by their number."""
    if len(lines) <= _MOST_LINES:
        return tuple(lines)
    shown = lines[: _MOST_LINES - 1]
    return *shown, f"... and {counted(len(lines) - len(shown), 'more line')}"


def _draw(nodes: Sequence[Node], before: str) -> Iterator[str]:
    for number, node in enumerate(nodes, 1):
        last = number == len(nodes)
        yield f"{before}{'└─' if last else '├─'} {node.text}"
        yield from _draw(node.below, before + ("   " if last else "│  "))


# --- suggesting -----------------------------------------------------------------------------------------------------


def _involved(roots: Sequence[Node], asked: Sequence[str]) -> list[str]:
    """Return the requested specs that are involved in the conflict: the roots of a tree, or those in a list."""
    found = _of_names([_name(root.text) for root in roots], asked)
    if found and any(root.below for root in roots) and not roots[0].text.endswith(_DISAGREE):
        return found
    text = "\n".join(_texts(roots)).lower()
    return [spec for spec in asked if re.search(rf"(?<![\w.-]){re.escape(_name(spec))}(?![\w.])", text)]


def _of_names(names: Iterable[str], asked: Sequence[str]) -> list[str]:
    wanted = dict.fromkeys(names)
    return [spec for name in wanted for spec in asked if _name(spec) == name]


def _name(spec: str) -> str:
    """Return the name of the package at the start of a spec or a line."""
    found = re.match(r"(?:package )?(?:[^\s\[]*::)?([A-Za-z0-9_.-]+)", spec.strip())
    return found[1].lower() if found else ""


def _texts(nodes: Iterable[Node]) -> Iterator[str]:
    for node in nodes:
        yield node.text
        yield from _texts(node.below)


def _absent(roots: Sequence[Node]) -> list[str]:
    """Return the specs that no package in the channels matches."""
    found = (pattern.search(text) for text in _texts(roots) for pattern in _ABSENT)
    return list(dict.fromkeys(match["spec"].strip() for match in found if match is not None))


def _suggestion(roots: Sequence[Node], involved: Sequence[str], asked: Sequence[str], channels: Sequence[str]) -> str:
    """Return what to change: specs with a version to relax, specs without one to remove, a channel to add."""
    absent = _absent(roots)
    for spec in absent:
        if spec.startswith("__"):
            return (
                f"This machine lacks {spec!r}, a property that packages require. To install for another machine, "
                f"set {_override(spec)}."
            )
    limiting = _of_names(map(_name, absent), asked)  # a requested version may exclude all candidates
    versioned = [spec for spec in dict.fromkeys([*limiting, *involved]) if _is_limited(spec)]
    bare = [spec for spec in involved if not _is_limited(spec)]
    ways = []
    if versioned:
        ways.append(f"relax {either(versioned)}")
    if bare:
        ways.append(f"leave out {either(bare)}")
    if absent:
        searched = f" (searched: {', '.join(map(redact, channels))})" if channels else ""
        first = {_name(spec): spec for spec in reversed(absent)}  # one of each package, not one for each Python
        ways.append(f"add a channel that has {either(list(reversed(first.values())))}{searched}")
    text = ", or ".join(ways) or "relax one of the specs"
    return f"{text[0].upper()}{text[1:]}."


def _override(spec: str) -> str:
    name = _name(spec).lstrip("_")
    return f"CONDA_OVERRIDE_{name.upper()}"


def _is_limited(spec: str) -> bool:
    return re.search(r"[\s=<>!~\[]", re.sub(r"\s=?\*$", "", spec.strip())) is not None


def either(specs: Sequence[str]) -> str:
    """Return the first specs, quoted, as alternatives: ``'a', 'b' or 'c'``."""
    named = [repr(redact(spec)) for spec in specs[:_MOST_NAMED]]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} or {named[-1]}"
