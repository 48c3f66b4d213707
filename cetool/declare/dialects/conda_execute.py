"""Dialect 1: the ``# conda execute`` block, YAML with the keys of :mod:`cetool.declare.dialects.own_keys`.

No line closes such a block. conda-execute took the blanks off every line before it read them, so lines of one list may
be indented unevenly. What the comment lines below say without being YAML is no part of the block, as long as it cannot
have been meant to be.
"""

from __future__ import annotations

from collections.abc import Sequence

from cetool.base.errors import Location, MetadataError
from cetool.base.text import pattern, shorten
from cetool.declare.blocks import CONDA_EXECUTE, LINE_COMMENTS, MAX_BLOCK, Block, Broken, Declaration
from cetool.declare.dialects.own_keys import BLOCK_END, KEYS, meant_key, read_own_keys
from cetool.declare.nodes import Node
from cetool.declare.source import Script
from cetool.declare.yaml import parse_yaml

_OPEN = pattern(rf"(?P<comment>{'|'.join(LINE_COMMENTS)}) conda execute:?")
_NOWHERE = Location("")
_NO_ENVIRONMENT = "no environment was found in the '# conda execute' specification"
_ADD_ENV = "Say what the script needs: a line '# env:' and below it one match spec a line, '#  - python >=3'."
#: How often a shorter part of the block is tried; each try ends before the line that broke the one before.
_MOST_TRIES = 40

#: Comments of one word that are no packages.
_PRAGMAS = frozenset(("end", "eof", "noqa", "nosec"))
_ITEM = pattern(r"\s*[-*+](?:\s|$)")
_WORD = pattern(r"\s*[\"']?([A-Za-z_][\w-]*)[\"']?\s*(.?)")
# one word, or a word and a version: an entry that lost its dash
_SPEC = pattern(r"\s*[A-Za-z0-9_][\w.:-]*(?:\[.*\]|\s*[<>=!~].*)?(?<![.!?:;,)])\s*")


def find_blocks(lines: list[str], _: Script, __: Sequence[Block | Broken]) -> list[Block]:
    """Blocks that start at a line ``# conda execute`` and go on while lines start with the same comment characters."""
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
        # one that has more lines than a block may have characters is refused, however it goes on
        while index < len(lines) and len(content) <= MAX_BLOCK and lines[index].lstrip().startswith(comment):
            line = lines[index].strip()
            if _OPEN.fullmatch(line):
                break  # another block
            # the comment characters twice: a comment on the specification, no part of it
            if not line[len(comment) :].lstrip().startswith(comment):
                content.append((line[len(comment) :], index + 1))
            index += 1
        texts, numbers = tuple(text for text, _ in content), tuple(number for _, number in content)
        blocks.append(Block(CONDA_EXECUTE, first + 1, index, texts, numbers))
    return blocks


def read_block(block: Block, script: Script, _: str | None = None) -> Declaration:
    """What a block declares: the same on every platform. Raises MetadataError."""
    root = read_tree(block, script)
    if root is None or root.kind == "nothing":
        raise MetadataError(_NO_ENVIRONMENT, code="block-missing", where=script.at(block.first), hint=_ADD_ENV)
    try:
        declared = read_own_keys(root, "the '# conda execute' specification", script.directory)
    except MetadataError as error:
        last = block.numbers[-1] if block.numbers else None
        if error.where is None or error.where.line != last or BLOCK_END in (error.hint or ""):
            raise
        # the last line may be a comment that follows the block
        raise error.but(hint=f"{error.hint or ''} {BLOCK_END}".strip()) from None
    needs = declared.requirements
    if not needs.packages and not needs.pypi and not needs.baselines and needs.overlay is None:
        raise MetadataError(_NO_ENVIRONMENT, code="block-missing", where=script.at(block.first), hint=_ADD_ENV)
    return declared


def read_keys(root: Node, script: Script, _: str | None = None) -> Declaration:
    """What the keys in a notebook's metadata declare. Raises MetadataError."""
    declared = read_own_keys(root, f"the notebook's metadata at {script.name.rpartition(':')[2]}", script.directory)
    if not declared.requirements.packages and not declared.requirements.pypi:
        root.fail("no packages are named in 'env'", 'Write "env": ["python >=3", "numpy"].')
    return declared


def read_tree(block: Block, script: Script) -> Node | None:
    """The YAML of a ``# conda execute`` block; None where there is none.

    Raises MetadataError, also where a text goes on in the next line: that may be a comment.
    """
    try:
        root = parse_yaml(block.text, name=script.name, lines=block.numbers)
    except MetadataError as error:
        raise error.but(hint=f"{error.hint} {BLOCK_END}" if error.hint else BLOCK_END) from None
    folded = _folded(root)
    if folded is not None:
        folded.fail(f"{shorten(folded.text)!r} goes over several lines", f"Write it in one line. {BLOCK_END}")
    return root


def whole_block(block: Block, name: str) -> Block:
    """The block as far as its YAML goes, indented as conda-execute read it; as it is where neither can be told."""
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
    """The block, its lines without indentation where they need that to be read; else None and the line that is wrong.

    The line is an index into the block's content.
    """
    root, broken = _tree(block, name)
    if root is not None and _folded(root) is None:
        return block, 0
    flat = block._replace(content=tuple(line.strip() for line in block.content))
    flat_root, flat_broken = _tree(flat, name)
    if flat_root is not None and _folded(flat_root) is None and _is_flat(flat_root):
        return flat, 0
    if root is not None:
        return block, 0  # its reader refuses what goes over several lines
    return None, min(max(broken, flat_broken), len(block.content) - 1)


def _tree(block: Block, name: str) -> tuple[Node | None, int]:
    """The YAML of the block, an empty mapping where it has none; else None and the index of the line that is wrong."""
    try:
        root = parse_yaml(block.text, name=name, lines=block.numbers)
    except MetadataError as error:
        line = error.where.line if error.where is not None else None
        return None, block.numbers.index(line) if line in block.numbers else 0
    return root or Node("mapping", _NOWHERE), 0


def _known(root: Node | None) -> list[Node]:
    """The values of the keys that are read."""
    return [] if root is None else [root.entries[key] for key in KEYS if key in root.entries]


def _folded(root: Node | None) -> Node | None:
    """The first text in them that goes over several lines."""
    return next((part for node in _known(root) if (part := node.folded_part()) is not None), None)


def _is_flat(root: Node) -> bool:
    """Whether nothing in it needs indentation to mean what it means: lists of texts, and mappings in braces."""
    if any(item.kind in ("mapping", "list") for node in _known(root) for item in node.items):
        return False
    variables = root.entries.get("variables")
    return root.kind == "mapping" and (variables is None or variables.kind != "nothing")


def _until(block: Block, end: int) -> Block:
    """The block without its lines from an index on, and without the blank ones before."""
    while end and not block.content[end - 1].strip():
        end -= 1
    numbers = block.numbers[:end]
    return block._replace(content=block.content[:end], numbers=numbers, last=numbers[-1] if numbers else block.first)


def _stands_out(block: Block, start: int) -> bool:
    """Whether the line at an index is indented no more than the keys before it, and so goes on with none of them."""
    keys = [line for line in block.content[:start] if line.strip() and not _ITEM.match(line)]
    first = block.content[start]
    return bool(keys) and len(first) - len(first.lstrip()) <= min(len(line) - len(line.lstrip()) for line in keys)


def _declares(line: str) -> bool:
    """Whether a line may be an entry or a key that is misspelt."""
    if _ITEM.match(line) or (_SPEC.fullmatch(line) and line.strip().lower() not in _PRAGMAS):
        return True
    word = _WORD.match(line)
    if word is None:
        return False
    return word[1] in KEYS or (word[2] in (":", "=", "[", "{") and meant_key(word[1]) is not None)


def _is_whole(block: Block, name: str) -> bool:
    """Whether each known key of the block has a value, and there is one."""
    known = _known(_tree(block, name)[0])
    return bool(known) and all(node.kind != "nothing" for node in known)
