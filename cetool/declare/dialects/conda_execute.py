"""Read dialect 1, the ``# conda execute`` block, and its keys, which the TOML dialects have in ``[tool.cetool]``.

These are ``env``, ``channels``, ``run_with`` and ``variables``. Instead of ``env`` there may be ``base``, ``overlay``
and ``conda``: an existing environment, and what is laid over it. ``baseline`` and ``without`` name packages to start
from, and those to leave out. ``environment`` names an environment of a server.

No line closes such a block. conda-execute stripped every line before it read them, so lines of one list may be indented
unevenly. Comment lines below the block that are not YAML are not part of it, unless they look like a mistake in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from cetool.base.errors import Location, MetadataError
from cetool.base.text import edits, pattern, shorten
from cetool.declare.blocks import CONDA_EXECUTE, LINE_COMMENTS, MAX_BLOCK, Block, Broken, Declaration
from cetool.declare.channels import channels_of, ends_channels
from cetool.declare.match_specs import canonical_spec
from cetool.declare.nodes import Directory, Node, listed, parse_yaml
from cetool.declare.requirements import Ignored, Requirements
from cetool.declare.source import Script

_VARIABLE = pattern(r"[A-Za-z_][A-Za-z0-9_]*")
#: The hint about a comment that was read as a part of a ``# conda execute`` block.
BLOCK_END = "An empty line ends the block: put one before a comment that follows it."

KEYS = ("env", "channels", "run_with", "variables", "base", "overlay", "conda", "baseline", "without", "environment")

#: Other names of these keys, in other tools and by mistake.
_OTHER_NAMES = {
    "env": "dependencies deps packages package requirements requires specs environments pip pypi conda_env "
    "python requires_python",
    "channels": "repositories channel_list",
    "run_with": "run runs run_by run_using command cmd entrypoint entry_point interpreter executable shell",
    "variables": "vars env_vars env_variables environment_variables",
    "without": "exclude excluding",
}
_MEANT = {name: key for key, names in _OTHER_NAMES.items() for name in names.split()}
#: The fewest letters of another name whose misspellings are recognized.
_LONG = 8
#: Last words of keys that only describe something: ``env_name`` changes nothing.
_ABOUT = frozenset(("name", "description", "comment", "note", "notes", "version", "url", "doc", "docs"))


#: The keys that few scripts have, by the module whose ``read_keys`` reads them: it is imported only for those.
_RARE = {"overlay": ("base", "overlay", "conda"), "baselines": ("baseline", "without"), "named": ("environment",)}
#: The module that reads the lists below ``pip:``, also imported only when needed.
_PIP = "dialects.pip_lines"


def read_own_keys(root: Node, what: str, base_dir: Directory, *, table: bool = False) -> Declaration:
    """Return what the keys of a specification declare; relative paths start from ``base_dir``. Raises MetadataError.

    In a ``table`` (``[tool.cetool]``) unknown keys are errors, and the configured channels are not used. In a ``# conda
    execute`` block cetool ignores unknown keys, as conda-execute did, and the configured channels follow the named
    ones.
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
    """Return warnings about unknown keys. Raises MetadataError for one that was probably meant as a known key."""
    found = []
    for key, node in keys.items():
        if key in KEYS:
            continue
        problem = f"unknown key {shorten(key)!r} in {what}"
        if (meant := meant_key(key)) is not None:
            node.fail(problem, f"Did you mean {meant!r}? {BLOCK_END}", code="key-unknown", about=key)
        found.append(Ignored(f"{problem}: ignored", node.where))
    return tuple(found)


def read_packages(node: Node | None, what: str, base_dir: Directory) -> Requirements:
    """Return a list's canonical match specs, and the requirements of its ``pip:`` entries. Raises MetadataError."""
    packages: list[str] = []
    pip: list[Node] = []
    hint = "A match spec starts with a name; put quotes around it if YAML reads it as something else."
    for item in listed(node, what, "Write one match spec per entry: [python >=3, numpy]."):
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
                f"an entry of {what} must be a match spec, not a mapping: {shorten(key)!r}",
                f"Write '{shorten(key)} VERSION' without a colon; only 'pip:' is followed by a list.",
                code="match-spec-invalid",
            )
    return listed(item.entries.get("pip"), "pip", "Below 'pip:' write one PyPI requirement per entry.")


def read_variables(node: Node | None) -> tuple[tuple[str, str], ...]:
    """Return names and values of environment variables; numbers and booleans as written. Raises MetadataError."""
    if node is None or node.kind == "nothing":
        return ()
    pairs = []
    for name, value in node.as_mapping("variables").items():
        if not _VARIABLE.fullmatch(name) or len(name) > 1000:
            value.fail(
                f"{shorten(name)!r} cannot be the name of an environment variable",
                "Use letters, digits and underscores, and do not start with a digit.",
            )
        if value.kind in ("list", "mapping", "nothing"):
            value.fail(f"the variable {name} must be a string, not {value.in_words}", 'Write "" for an empty one.')
        if "\0" in value.text:
            value.fail(f"the variable {name} contains a NUL, which is not possible in an environment variable")
        if any("\ud800" <= char <= "\udfff" for char in value.text):
            value.fail(f"the variable {name} contains an unpaired surrogate", "Write the whole character.")
        pairs.append((name, value.text))
    return tuple(pairs)


def _run_with(node: Node | None) -> tuple[str, ...] | None:
    """Return the words of the command: a string is split at blanks, a list is unchanged."""
    if node is None or node.kind == "nothing":
        return None
    if node.kind != "list":
        return tuple(node.as_text("run_with", "Write a command such as python -u, or a list of its words.").split())
    words = tuple(item.text if item.kind == "number" else item.as_text("a word of run_with") for item in node.items)
    if not words:
        node.fail("run_with is empty", "Name the program that runs the script, or remove run_with.")
    return words


def meant_key(word: str) -> str | None:
    """Return the key that an unknown one was probably meant to be; None for one that changes nothing.

    It may have another name (``dependencies``, as other tools call ``env``), one more word (``env_linux``), or be
    misspelled: other dashes or capitals, a plural, one wrong letter in a short word or two in a long one.
    """
    word = re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_")
    if word in _MEANT:
        return _MEANT[word]
    letters = word.replace("_", "")
    # before there was a key of this name, 'env' was meant by words like it
    whole = {key.replace("_", ""): "env" if key == "environment" else key for key in KEYS}
    for name, key in whole.items():
        if letters in (name, f"{name}s", name.removesuffix("s")):
            return key
    longer = next((whole[key.replace("_", "")] for key in KEYS if word.startswith(f"{key}_")), None)
    if longer is not None and word.rpartition("_")[2] not in _ABOUT:
        return longer
    whole.update((name.replace("_", ""), key) for name, key in _MEANT.items() if len(name) >= _LONG)
    distances = [(far, key) for name, key in whole.items() if (far := _distance(letters, name)) is not None]
    return min(distances)[1] if distances else None


def _distance(one: str, other: str) -> int | None:
    """Return the edits that turn one word into the other; None if these are too many for a typing mistake.

    A short word may have one, a long one two.
    """
    most = 2 if len(other) > 5 else 1
    if abs(len(one) - len(other)) > most:
        return None
    found = edits(one, other)
    return found if found <= most else None


_OPEN = pattern(rf"(?P<comment>{'|'.join(LINE_COMMENTS)}) conda execute:?")
_NOWHERE = Location("")
_NO_ENVIRONMENT = "the '# conda execute' block declares no environment"
_ADD_ENV = "Add a line '# env:', and below it one match spec per line, such as '#  - python >=3'."
#: How many shorter parts of the block to try; each ends before the line that broke the previous one.
_MOST_TRIES = 40

#: Comments of one word that are not packages.
_PRAGMAS = frozenset(("end", "eof", "noqa", "nosec"))
_ITEM = pattern(r"\s*[-*+](?:\s|$)")
_WORD = pattern(r"\s*[\"']?([A-Za-z_][\w-]*)[\"']?\s*(.?)")
# one word, or a word and a version: an entry without its dash
_SPEC = pattern(r"\s*[A-Za-z0-9_][\w.:-]*(?:\[.*\]|\s*[<>=!~].*)?(?<![.!?:;,)])\s*")


def find_blocks(lines: list[str], _: Script, __: Sequence[Block | Broken]) -> list[Block]:
    """Return the blocks, which start with ``# conda execute`` and continue while lines start with a comment."""
    blocks: list[Block] = []
    index = 0
    while index < len(lines):
        first = index
        index += 1
        stripped = lines[first].strip()
        opened = _OPEN.fullmatch(stripped) if "conda execute" in stripped else None
        if opened is None:
            continue
        comment = opened["comment"]
        content: list[tuple[str, int]] = []
        # a block with more lines than a block may have characters will be refused
        while index < len(lines) and len(content) <= MAX_BLOCK and lines[index].lstrip().startswith(comment):
            line = lines[index].strip()
            if _OPEN.fullmatch(line):
                break  # another block
            # the comment characters twice: a comment inside the block
            if not line[len(comment) :].lstrip().startswith(comment):
                content.append((line[len(comment) :], index + 1))
            index += 1
        texts, numbers = tuple(text for text, _ in content), tuple(number for _, number in content)
        blocks.append(Block(CONDA_EXECUTE, first + 1, index, texts, numbers))
    return blocks


def read_block(block: Block, script: Script, _: str | None = None) -> Declaration:
    """Return what a block declares: the same on every platform. Raises MetadataError."""
    root = read_tree(block, script)
    if root is None or root.kind == "nothing":
        raise MetadataError(_NO_ENVIRONMENT, code="block-missing", where=script.at(block.first), hint=_ADD_ENV)
    try:
        declared = read_own_keys(root, "the '# conda execute' block", script.directory)
    except MetadataError as error:
        last = block.numbers[-1] if block.numbers else None
        if error.where is None or error.where.line != last or BLOCK_END in (error.hint or ""):
            raise
        # the last line may be a comment that follows the block
        raise error.but(hint=f"{error.hint or ''} {BLOCK_END}".strip()) from None
    needs = declared.requirements
    others = needs.baselines or needs.overlay is not None or needs.environment is not None
    if not needs.packages and not needs.pypi and not others:
        raise MetadataError(_NO_ENVIRONMENT, code="block-missing", where=script.at(block.first), hint=_ADD_ENV)
    return declared


def read_keys(root: Node, script: Script, _: str | None = None) -> Declaration:
    """Return what the keys in a notebook's metadata declare. Raises MetadataError."""
    declared = read_own_keys(root, f"the notebook's metadata at {script.name.rpartition(':')[2]}", script.directory)
    needs = declared.requirements
    if not needs.packages and not needs.pypi and needs.environment is None:
        root.fail("'env' has no packages", 'Write "env": ["python >=3", "numpy"].')
    return declared


def read_tree(block: Block, script: Script) -> Node | None:
    """Return the YAML of a ``# conda execute`` block; None if it is empty.

    Raises MetadataError, also if a string continues on the next line, which may be a comment.
    """
    try:
        root = parse_yaml(block.text, name=script.name, lines=block.numbers)
    except MetadataError as error:
        raise error.but(hint=f"{error.hint} {BLOCK_END}" if error.hint else BLOCK_END) from None
    folded = _folded(root)
    if folded is not None:
        folded.fail(f"{shorten(folded.text)!r} spans several lines", f"Write it on one line. {BLOCK_END}")
    return root


def whole_block(block: Block, name: str) -> Block:
    """Return the part of the block that is YAML, indented as conda-execute read it; unchanged if that is unclear."""
    found, broken = _read(block, name)
    if found is not None:
        return found
    for _ in range(_MOST_TRIES):
        if not 0 < broken < len(block.content) or any(map(_declares, block.content[broken:])):
            break
        shorter = _until(block, broken)
        found, earlier = _read(shorter, name)
        if found is not None:
            return found if _is_whole(found, name) and _stands_out(block, broken) else block
        broken = earlier
    return block


def _read(block: Block, name: str) -> tuple[Block | None, int]:
    """Return the block, with lines stripped if it can be read only so; else None and the index of the wrong line."""
    root, broken = _tree(block, name)
    if root is not None and _folded(root) is None:
        return block, 0
    flat = block._replace(content=tuple(line.strip() for line in block.content))
    flat_root, flat_broken = _tree(flat, name)
    if flat_root is not None and _folded(flat_root) is None and _is_flat(flat_root):
        return flat, 0
    if root is not None:
        return block, 0  # its reader refuses strings on several lines
    return None, min(max(broken, flat_broken), len(block.content) - 1)


def _tree(block: Block, name: str) -> tuple[Node | None, int]:
    """Return the YAML of the block, or an empty mapping; else None and the index of the wrong line."""
    try:
        root = parse_yaml(block.text, name=name, lines=block.numbers)
    except MetadataError as error:
        line = error.where.line if error.where is not None else None
        return None, block.numbers.index(line) if line in block.numbers else 0
    return root or Node("mapping", _NOWHERE), 0


def _known(root: Node | None) -> list[Node]:
    """Return the values of the known keys."""
    return [] if root is None else [root.entries[key] for key in KEYS if key in root.entries]


def _folded(root: Node | None) -> Node | None:
    """Return the first string in them that spans several lines."""
    return next((part for node in _known(root) if (part := node.folded_part()) is not None), None)


def _is_flat(root: Node) -> bool:
    """Return whether its meaning needs no indentation: only lists of strings, and mappings in braces."""
    if any(item.kind in ("mapping", "list") for node in _known(root) for item in node.items):
        return False
    variables = root.entries.get("variables")
    return root.kind == "mapping" and (variables is None or variables.kind != "nothing")


def _until(block: Block, end: int) -> Block:
    """Return the block up to an index, without blank lines at its end."""
    while end and not block.content[end - 1].strip():
        end -= 1
    numbers = block.numbers[:end]
    return block._replace(content=block.content[:end], numbers=numbers, last=numbers[-1] if numbers else block.first)


def _stands_out(block: Block, start: int) -> bool:
    """Return whether the line at an index is indented no more than the keys before it, and so continues none."""
    keys = [line for line in block.content[:start] if line.strip() and not _ITEM.match(line)]
    first = block.content[start]
    return bool(keys) and len(first) - len(first.lstrip()) <= min(len(line) - len(line.lstrip()) for line in keys)


def _declares(line: str) -> bool:
    """Return whether a line may be a misspelled entry or key."""
    if _ITEM.match(line) or (_SPEC.fullmatch(line) and line.strip().lower() not in _PRAGMAS):
        return True
    word = _WORD.match(line)
    if word is None:
        return False
    return word[1] in KEYS or (word[2] in (":", "=", "[", "{") and meant_key(word[1]) is not None)


def _is_whole(block: Block, name: str) -> bool:
    """Return whether the block has known keys, and each has a value."""
    known = _known(_tree(block, name)[0])
    return bool(known) and all(node.kind != "nothing" for node in known)
