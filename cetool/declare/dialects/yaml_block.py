"""Where the YAML of a ``# conda execute`` block ends, and how its lines are indented.

conda-execute took the blanks off every line before it read them, so lines of one list may be indented unevenly. What
the comment lines below say without being YAML is no part of the block, as long as it cannot have been meant to be.
"""

from __future__ import annotations

from cetool.base.errors import Location, MetadataError
from cetool.base.patterns import pattern
from cetool.declare.blocks import Block
from cetool.declare.dialects.own_keys import KEYS, meant_key
from cetool.declare.nodes import Node
from cetool.declare.yaml import parse_yaml

_NOWHERE = Location("")
#: How often a shorter part of the block is tried; each try ends before the line that broke the one before.
_MOST_TRIES = 40

#: Comments of one word that are no packages.
_PRAGMAS = frozenset(("end", "eof", "noqa", "nosec"))
_ITEM = pattern(r"\s*[-*+](?:\s|$)")
_WORD = pattern(r"\s*[\"']?([A-Za-z_][\w-]*)[\"']?\s*(.?)")
# one word, or a word and a version: an entry that lost its dash
_SPEC = pattern(r"\s*[A-Za-z0-9_][\w.:-]*(?:\[.*\]|\s*[<>=!~].*)?(?<![.!?:;,)])\s*")


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


def _folded(root: Node) -> Node | None:
    known = (root.entries[key] for key in KEYS if key in root.entries)
    return next((node for node in known if node.folded_part() is not None), None)


def _is_flat(root: Node) -> bool:
    """Whether nothing in it needs indentation to mean what it means: lists of texts, and mappings in braces."""
    for key in KEYS:
        node = root.entries.get(key)
        if node is None:
            continue
        if any(item.kind in ("mapping", "list") for item in node.items):
            return False
        if key == "variables" and node.kind == "nothing":
            return False
    return root.kind == "mapping"


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
    root, _ = _tree(block, name)
    known = [] if root is None else [root.entries[key] for key in KEYS if key in root.entries]
    return bool(known) and all(node.kind != "nothing" for node in known)
