"""The keys of a ``# conda execute`` block, which ``[tool.cetool]`` in the two TOML dialects has as well.

These are ``env``, ``channels``, ``run_with`` and ``variables``. Instead of ``env`` there may be ``base``, ``overlay``
and ``conda``: an existing environment, and what is laid over it. ``baseline`` and ``without`` name packages to start
from, and which of those are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from cetool.base.text import pattern, shorten
from cetool.declare.blocks import Declaration
from cetool.declare.channels import channels_of, ends_channels
from cetool.declare.match_specs import canonical_spec
from cetool.declare.nodes import Directory, Node, listed
from cetool.declare.requirements import Ignored, Requirements

_VARIABLE = pattern(r"[A-Za-z_][A-Za-z0-9_]*")
#: What to do about a comment that was read as a part of a ``# conda execute`` block.
BLOCK_END = "An empty line ends the block: put one in front of a comment that follows it."

KEYS = ("env", "channels", "run_with", "variables", "base", "overlay", "conda", "baseline", "without")

#: What other tools, and people, call what these keys say.
_OTHER_NAMES = {
    "env": "dependencies deps packages package requirements requires specs environment environments pip pypi conda_env "
    "python requires_python",
    "channels": "repositories channel_list",
    "run_with": "run runs run_by run_using command cmd entrypoint entry_point interpreter executable shell",
    "variables": "vars env_vars env_variables environment_variables",
    "without": "exclude excluding",
}
_MEANT = {name: key for key, names in _OTHER_NAMES.items() for name in names.split()}
#: Letters of another name that is looked for misspelt as well.
_LONG = 8
#: Last words of keys that only tell about something: ``env_name`` changes nothing.
_ABOUT = frozenset(("name", "description", "comment", "note", "notes", "version", "url", "doc", "docs"))


#: The keys that few scripts have, by the module that reads them: it is imported for those alone, and has ``read_keys``.
_RARE = {"overlay": ("base", "overlay", "conda"), "baselines": ("baseline", "without")}
#: The module that reads the lists below ``pip:``, of which the same holds.
_PIP = "dialects.pip_lines"


def read_own_keys(root: Node, what: str, base_dir: Directory, *, table: bool = False) -> Declaration:
    """What the keys of a specification say; relative paths start from ``base_dir``. Raises MetadataError.

    In a ``table`` (``[tool.cetool]``) every other key is an error, and the named channels are all there are. In a
    ``# conda execute`` block cetool passes over other keys, as conda-execute did, and the configured channels follow.
    """
    keys = root.as_mapping(what, KEYS if table else None)
    warnings = () if table else _unknown_keys(keys, what)
    channels = channels_of(keys.get("channels"), base_dir)
    needs = read_packages(keys.get("env"), "env", base_dir)._replace(
        channels=channels,
        configured=not table and channels is not None and not ends_channels(keys["channels"]),
        variables=read_variables(keys.get("variables")),
        warnings=warnings,
    )
    for module, names in _RARE.items():
        if any(name in keys for name in names):
            needs = _late(module).read_keys(needs, keys, base_dir)
    return Declaration(needs, _run_with(keys.get("run_with")))


def _late(module: str) -> Any:
    return import_module(f"cetool.declare.{module}")


def _unknown_keys(keys: Mapping[str, Node], what: str) -> tuple[Ignored, ...]:
    """What to say of the keys that nothing reads. Raises MetadataError for one that was meant to be a known one."""
    found = []
    for key, node in keys.items():
        if key in KEYS:
            continue
        problem = f"unknown key {shorten(key)!r} in {what}"
        if (meant := meant_key(key)) is not None:
            node.fail(problem, f"Did you mean {meant!r}? {BLOCK_END}", code="key-unknown", about=key)
        found.append(Ignored(f"{problem}: cetool passes over it", node.where))
    return tuple(found)


def read_packages(node: Node | None, what: str, base_dir: Directory) -> Requirements:
    """The match specs of a list, and what its ``pip:`` entries ask for, canonical. Raises MetadataError."""
    packages: list[str] = []
    pip: list[Node] = []
    hint = "A match spec starts with a name; put quotes around what YAML takes for something else."
    for item in listed(node, what, "Write one match spec an entry: [python >=3, numpy]"):
        if item.kind == "mapping":
            pip += _pip_entry(item, what)
        else:
            text = item.as_text(f"an entry of {what}", hint)
            packages.append(canonical_spec(text, where=item.where, base_dir=base_dir))
    needs: Requirements = _late(_PIP).read_pip_lines(tuple(pip), base_dir) if pip else Requirements()
    return needs._replace(packages=tuple(packages))


def _pip_entry(item: Node, what: str) -> tuple[Node, ...]:
    for key, value in item.entries.items():
        if key != "pip":
            value.fail(
                f"an entry of {what} is a match spec, not a mapping: {shorten(key)!r}",
                f"Write '{shorten(key)} VERSION' without a colon; only 'pip:' is followed by a list.",
                code="match-spec-invalid",
            )
    return listed(item.entries.get("pip"), "pip", "Below 'pip:' write one PyPI requirement an entry.")


def read_variables(node: Node | None) -> tuple[tuple[str, str], ...]:
    """Names and values of environment variables; numbers and booleans count as written. Raises MetadataError."""
    if node is None or node.kind == "nothing":
        return ()
    pairs = []
    for name, value in node.as_mapping("variables").items():
        if not _VARIABLE.fullmatch(name) or len(name) > 1000:
            value.fail(
                f"{shorten(name)!r} cannot be the name of an environment variable",
                "It has letters, digits and underscores, and does not start with a digit.",
            )
        if value.kind in ("list", "mapping", "nothing"):
            value.fail(f"the variable {name} must be a text, not {value.in_words}", 'Write "" for an empty one.')
        if "\0" in value.text:
            value.fail(f"the variable {name} holds a NUL, which no environment can hold")
        if any("\ud800" <= char <= "\udfff" for char in value.text):
            value.fail(f"the variable {name} holds half of a character (a lone surrogate)", "Write the whole one.")
        pairs.append((name, value.text))
    return tuple(pairs)


def _run_with(node: Node | None) -> tuple[str, ...] | None:
    """The words of the command: a text is split on blanks, a list is taken as it is."""
    if node is None or node.kind == "nothing":
        return None
    if node.kind != "list":
        return tuple(node.as_text("run_with", "Write a command, as in python -u, or a list of its words.").split())
    words = tuple(item.text if item.kind == "number" else item.as_text("a word of run_with") for item in node.items)
    if not words:
        node.fail("run_with is empty", "Name the program that runs the script, or leave run_with out.")
    return words


def meant_key(word: str) -> str | None:
    """The key that an unknown one was probably meant to be; None for one that changes nothing.

    It is one under another name (``dependencies``, which other tools have for ``env``), one with a word more
    (``env_linux``), or a misspelt one: other dashes or capitals, a plural, one letter of a short word or two of a long
    one.
    """
    word = re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_")
    if word in _MEANT:
        return _MEANT[word]
    letters = word.replace("_", "")
    whole = {key.replace("_", ""): key for key in KEYS}
    for name, key in whole.items():
        if letters in (name, f"{name}s", name.removesuffix("s")):
            return key
    longer = next((key for key in KEYS if word.startswith(f"{key}_")), None)
    if longer is not None and word.rpartition("_")[2] not in _ABOUT:
        return longer
    whole.update((name.replace("_", ""), key) for name, key in _MEANT.items() if len(name) >= _LONG)
    distances = [(far, key) for name, key in whole.items() if (far := _distance(letters, name)) is not None]
    return min(distances)[1] if distances else None


def _distance(one: str, other: str) -> int | None:
    """How many letters have to be added, taken out, changed or swapped to make the other word of one.

    None where that are more than a slip of the finger: one in a short word, two in a long one.
    """
    most = 2 if len(other) > 5 else 1
    if abs(len(one) - len(other)) > most:
        return None
    above: list[int] = []
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, start=1):
        above, before, row = row, above, [at]
        for to, same in enumerate(other, start=1):
            cost = min(above[to] + 1, row[to - 1] + 1, above[to - 1] + (letter != same))
            if at > 1 and to > 1 and letter == other[to - 2] and one[at - 2] == same:
                cost = min(cost, before[to - 2] + 1)
            row.append(cost)
    return row[-1] if row[-1] <= most else None
