"""Convert a block to another dialect: it declares the same environment, and the script runs in the same way."""

from __future__ import annotations

import re
from dataclasses import replace

from cetool.base.errors import UsageError
from cetool.declare.blocks import CONDA_EXECUTE, CONDA_SCRIPT, DIALECTS, PEP723, Block, Declaration
from cetool.declare.channels import NO_DEFAULTS, file_url
from cetool.declare.dialects.conda_execute import read_own_keys
from cetool.declare.dialects.pip_lines import bare_requirement, option_lines
from cetool.declare.dialects.uv import read_uv
from cetool.declare.languages import language_of
from cetool.declare.match_specs import requires_python_spec, spec_name
from cetool.declare.nodes import Node
from cetool.declare.platforms import current_platform, selectors
from cetool.declare.pypi import canonical_requirement
from cetool.declare.requirements import DEFAULT_CHANNEL
from cetool.edit.block_text import BlockText, Spot, UneditableError, block_text, line_start
from cetool.edit.declared import DeclaredItem, channels_place, draft_of, pypi_name
from cetool.edit.document import Document, NotWrittenError, require_script
from cetool.edit.editing import Edited, comparable, declaration, declared_again, require_block, unsafe
from cetool.edit.rendering import NewBlock, entrypoint_of, render, toml_value, words_of
from cetool.edit.toml import TomlText, scan_toml
from cetool.edit.yaml import scan_yaml

#: The dialects by their names in ``--to`` and ``--dialect``.
OPTIONS = {dialect.option: dialect.name for dialect in DIALECTS.values()}

_SHARED = (("tool", "pixi"), ("tool", "cetool"))
_YAML_COMMENT = re.compile(r"(?<!\S)#[^\n]*")
_TOML_COMMENT = re.compile(r"#[^\n]*")

#: Tables below ``tool`` that each dialect reads.
_MEANT = {PEP723: ("conda", "pixi", "uv", "cetool"), CONDA_SCRIPT: ("pixi", "cetool"), CONDA_EXECUTE: ()}


def convert_block(document: Document, dialect: str) -> Edited:
    """Return the script with its block in another dialect, and sentences about what could not be converted.

    Raises MetadataError for a malformed block, UsageError if the dialect does not support the script's language,
    NotWrittenError if the other dialect would declare another environment.
    """
    script = require_script(document)
    block = require_block(script)
    if block.dialect == dialect:
        return Edited(document, ("the script's block is already in this dialect",))
    if dialect == PEP723 and not language_of(script).is_python:
        raise UsageError(
            "PEP 723 blocks are only for Python scripts",
            hint="Convert it to conda-script or conda-execute.",
        )
    work = _Conversion(document, block, dialect)
    if work.before.requirements.overlay is not None:  # its keys must be written into [tool.cetool] by hand
        raise work.refusal(": it has a base and an overlay")
    try:
        wanted, shared = work.wanted()
    except UneditableError:
        raise unsafe(script, block) from None
    for attempt in work.attempts(wanted):
        new = work.replaced(attempt, shared)
        _, found = declared_again(new, dialect, work.refusal)
        if work.runs_alike(found):
            break
    work.compare(found)
    return Edited(new, tuple(work.notes))


class _Conversion:
    """A block, what it declares, and the new dialect."""

    def __init__(self, document: Document, block: Block, dialect: str) -> None:
        self.document = document
        self.script = require_script(document)
        self.block = block
        self.dialect = dialect
        self.before = declaration(block, self.script)
        self.notes: list[str] = []
        self.lost_command = False

    def wanted(self) -> tuple[NewBlock, str]:
        """Return the content of the new block, and the TOML to copy into it."""
        draft = draft_of(self.document, self.block)
        root, content = draft.root, draft.content
        keeps_tables = self._keeps_tables
        items = self._items(root, draft.items)
        conda = [item for item in draft.items if item.kind == "conda"]
        named = self.before.requirements.environment is not None
        if self.block.dialect == PEP723 and not named and not any(item.name == "python" for item in conda):
            items.insert(0, DeclaredItem("conda", "python", "python", (), None))
        own_root = root if self.block.dialect == CONDA_EXECUTE else root.below("tool", "cetool")
        keys = own_root or Node("mapping", self.script.at())
        own = read_own_keys(keys, "the block", self.script.directory, table=own_root is not root)
        wanted = NewBlock(
            packages=tuple(item.text for item in items if item.kind == "conda"),
            pypi=self._pypi([item.text for item in items if item.kind == "pypi"], root),
            channels=self._channels(root),
            variables=() if keeps_tables else self.before.requirements.variables,
            run_with=None if keeps_tables else own.run_with,
            baselines=() if keeps_tables else _texts(own_root, "baseline"),
            without=() if keeps_tables else _texts(own_root, "without"),
            environment=None if keeps_tables else self.before.requirements.environment,
            comments=_comments(self.document, self.block, content, everything=not keeps_tables),
        )
        if not keeps_tables:
            self._tell_of_tables(root)
            return wanted, ""
        shared = self._shared(content)
        return wanted, _with_conditions(root, shared) if self.block.dialect == CONDA_SCRIPT else shared

    @property
    def _keeps_tables(self) -> bool:
        """Whether tables that both dialects have are copied unchanged."""
        return CONDA_EXECUTE not in (self.block.dialect, self.dialect)

    def _items(self, root: Node, items: list[DeclaredItem]) -> list[DeclaredItem]:
        """Return the items to write, as they apply here; note those that apply only to other platforms."""
        platforms = selectors(current_platform())
        found: dict[object, DeclaredItem] = {}
        elsewhere: dict[str, None] = {}
        for item in items:
            node = root.below(*map(str, item.path)) if item.form != "text" else None
            conditional = node is not None and "when" in node.entries
            if self._keeps_tables and (item.path[:2] in _SHARED or conditional):
                continue
            text = self._text(item, node)
            if text is None or item.platform not in (None, *platforms):
                elsewhere[item.name] = None
                continue
            if conditional and "when" not in text:
                self.notes.append(f"{item.name} is now required on every platform: its condition was left out")
            layered = item.form == "entry" and item.path[:2] == ("tool", "pixi")
            found[(item.kind, item.name) if layered else item.path] = replace(item, text=text)
        if elsewhere:
            self.notes.append(f"left out packages for other platforms: {', '.join(elsewhere)}")
        return list(found.values())

    def _text(self, item: DeclaredItem, node: Node | None) -> str | None:
        """Return the item as a match spec or requirement; None for one that does not apply here."""
        if node is None:
            return item.text
        if item.form == "requires-python":
            return requires_python_spec(node.text)
        if node.kind == "mapping" and "path" in node.entries and len(node.entries) == 1:
            return f"{item.path[-1]} @ {node.entries['path'].text}"
        if item.kind == "conda" and set(node.entries) <= {"version", "build", "channel"}:
            return item.text
        needs = self.before.requirements
        if item.kind == "conda":
            return next((spec for spec in needs.packages if spec_name(spec) == item.name), None)
        return next((text for text in needs.pypi if pypi_name(text) == item.name), None)

    def _channels(self, root: Node) -> tuple[str, ...] | None:
        place = channels_place(root, self.block.dialect)
        node = None if place is None else root.below(*place)
        if node is None:
            if self.dialect != CONDA_SCRIPT:
                return None
            self.notes.append(f"added the channel {DEFAULT_CHANNEL}: a conda-script block must have channels")
            return (DEFAULT_CHANNEL,)
        texts = [item.entries["channel"].text if "channel" in item.entries else item.text for item in node.items]
        named = tuple(text for text in texts if text != NO_DEFAULTS)
        needs = self.before.requirements
        if self.dialect == CONDA_EXECUTE:
            return (*named, NO_DEFAULTS)
        if needs.configured and DEFAULT_CHANNEL not in (needs.channels or ()):
            self.notes.append(
                f"added the channel {DEFAULT_CHANNEL}: only '# conda execute' blocks also use the configured ones"
            )
            return (*named, DEFAULT_CHANNEL)
        return named

    def _shared(self, content: str) -> str:
        """Return the tables below ``tool`` that both dialects have, unchanged."""
        sections = scan_toml(content)
        own = {("tool", "conda"), ("tool", "uv")}
        kept, left = [], []
        for index, section in enumerate(sections):
            if not section.path:
                for entry in section.entries:
                    if entry.path[0] == "tool" and entry.path[:2] not in own:
                        kept.append(content[line_start(content, entry.start) : entry.value.end])
            elif section.path[:2] in own:
                left.append(".".join(section.path))
            elif section.path[0] == "tool":
                after = sections[index + 1].start if index + 1 < len(sections) else len(content)
                end = line_start(content, after) if index + 1 < len(sections) else after
                kept.append(content[line_start(content, section.start) : end].strip("\n"))
        if self.block.dialect == CONDA_SCRIPT and left:
            self.notes.append(f"left out, since conda-script reads it differently: {', '.join(left)}")
        return "\n".join(kept)

    def _tell_of_tables(self, root: Node) -> None:
        """Note the tables that a dialect without tables cannot contain."""
        tools = root.below("tool")
        meant = _MEANT[self.block.dialect]
        foreign = [f"tool.{key}" for key in (() if tools is None else tools.entries) if key not in meant]
        if foreign:
            self.notes.append(
                f"left out tables of other programs, which '# conda execute' cannot contain: {', '.join(foreign)}"
            )
        self.notes += [f"left out: {each.text}" for each in self.before.requirements.warnings]

    def _pypi(self, texts: list[str], root: Node) -> tuple[str, ...]:
        """Return the PyPI requirements in the other dialect's form, and pip's options for their settings.

        Raises NotWrittenError if there are no such options.
        """
        needs, directory = self.before.requirements, self.script.directory
        uv = root.below("tool", "uv") if self.block.dialect == PEP723 else None
        if uv is not None:
            here = f"{file_url('.', directory)}/"
            sources = read_uv(uv, base_dir=directory).sources
            changed = {text: sources.applied([canonical_requirement(text, base_dir=directory)]) for text in texts}
            texts = [
                new
                for text, found in changed.items()
                for new in ([text] if len(found) == 1 and " @ " not in found[0] else found)
            ]
            texts = [text.replace(f" @ {here}", " @ ./") for text in texts]
        if self._keeps_tables and uv is None:
            return tuple(texts)
        lines = option_lines(needs.pypi_settings)
        if lines is None:
            settings = needs.pypi_settings
            keys = [key for key, _ in settings.options] + (["exclude-newer"] if settings.exclude_newer else [])
            raise self.refusal(f": only [tool.uv] of a PEP 723 block can express all of {', '.join(keys)}")
        return (*lines, *texts, *(text for text in needs.pypi if bare_requirement(text) is None))

    def attempts(self, wanted: NewBlock) -> list[NewBlock]:
        """Return the ways to declare how the script runs, the simplest first."""
        entrypoint, run_with = self.before.entrypoint, self.before.run_with
        if entrypoint is not None:
            words = words_of(entrypoint)
            if words is not None:
                return [replace(wanted, run_with=words)]
            self.lost_command = True
            self.notes.append(f"left out, since only conda-script supports it: entrypoint = {entrypoint!r}")
            return [wanted]
        explicit = wanted.run_with
        if self.dialect == CONDA_SCRIPT and explicit is not None:
            command = entrypoint_of(explicit)
            if command is not None:
                return [replace(wanted, run_with=None, entrypoint=command)]
        return [wanted] if explicit is not None else [wanted, replace(wanted, run_with=run_with)]

    def runs_alike(self, found: Declaration) -> bool:
        """Return whether the script runs as before, as far as the dialect has a command for that."""
        return self.lost_command or _command(found) == _command(self.before)

    def replaced(self, wanted: NewBlock, shared: str) -> Document:
        """Return the file with the new block instead of the old one."""
        document, block = self.document, self.block
        comment = "#" if self.dialect == PEP723 else block_text(document, block).prefix.strip()
        lines = render(self.dialect, wanted, comment=comment, base_dir=self.script.directory, shared=shared)
        following = document.line(block.last)[0].lstrip() if block.last < len(document.lines) else ""
        if following.startswith(comment) and self.dialect in (CONDA_EXECUTE, PEP723):
            lines.append("")
        ends = [document.ending] * (len(lines) - 1) + [document.line(block.last - 1)[1]]
        ended = map("".join, zip(lines, ends, strict=True))
        new = document.encoded(ended, "the new block cannot be encoded in {codec}")
        return document.spliced(block.first - 1, block.last, new)

    def compare(self, found: Declaration) -> None:
        """Check that the environment is the same. Raises NotWrittenError if it is not."""
        old, new = self.before.requirements, found.requirements
        if old.configured or (old.channels is None and self.dialect == CONDA_SCRIPT):
            old = old._replace(channels=old.channels_after((DEFAULT_CHANNEL,)), configured=False)
        pairs = [
            comparable(Declaration(needs._replace(warnings=(), variables=tuple(sorted(needs.variables))), None, None))
            for needs in (old, new)
        ]
        python = old.environment is not None or any(spec_name(spec) == "python" for spec in old.packages)
        if self.dialect == PEP723 and not python:
            raise self.refusal(": a PEP 723 script always has python in its environment, unlike this one")
        if pairs[0] != pairs[1] or not self.runs_alike(found):
            raise self.refusal()

    def refusal(self, reason: str = "") -> NotWrittenError:
        """Return the error for a block that the other dialect cannot express."""
        return NotWrittenError(
            f"this block cannot be converted to {DIALECTS[self.dialect].option}, so nothing was written{reason}",
            code="block-not-convertible",
            where=self.script.at(self.block.first),
        )


def _texts(root: Node | None, key: str) -> tuple[str, ...]:
    """Return the strings of a key (one, or a list), as written."""
    node = None if root is None else root.below(key)
    if node is None or node.kind == "nothing":
        return ()
    return tuple(item.text for item in (node.items if node.kind == "list" else (node,)))


def _command(declared: Declaration) -> tuple[str, ...] | str | None:
    """Return how a script runs: words, if an entry point is a plain command."""
    if declared.entrypoint is None:
        return declared.run_with
    return words_of(declared.entrypoint) or declared.entrypoint


def _with_conditions(root: Node, shared: str) -> str:
    """Return the tables with conda-script's conditional dependencies in pixi's, which supports conditions too."""
    table = root.below("dependencies")
    toml = TomlText(BlockText.of(shared))
    for name, node in ({} if table is None else table.entries).items():
        if "when" in node.entries:
            toml.set(("tool", "pixi", "dependencies"), name, toml_value(node))
    return toml.content


def _comments(document: Document, block: Block, content: str, *, everything: bool) -> tuple[str, ...]:
    """Return the comments in the block, except those in tables that are copied unchanged."""
    if block.dialect == CONDA_EXECUTE:
        hidden = [line.content.strip() for line in block_text(document, block).lines if line.hidden]
        comment = block_text(document, block).prefix.strip()
        found = [text[len(comment) :].strip()[len(comment) :].strip() for text in hidden]
        return (*filter(None, found), *_after_values(content, [scan_yaml(content)], [(0, len(content))], _YAML_COMMENT))
    sections = scan_toml(content)
    spans = []
    for index, section in enumerate(sections):
        end = sections[index + 1].start if index + 1 < len(sections) else len(content)
        if everything or section.path[:1] != ("tool",) or section.path[:2] == ("tool", "conda"):
            spans.append((section.start, end))
    values = [entry.value for section in sections for entry in section.entries]
    return tuple(_after_values(content, values, spans, _TOML_COMMENT))


def _after_values(
    content: str, values: list[Spot], spans: list[tuple[int, int]], comment: re.Pattern[str]
) -> list[str]:
    """Return the texts of the comments that are in one of the spans, but not in a value."""
    scalars = []
    while values:
        spot = values.pop()
        if spot.kind == "scalar":
            scalars.append((spot.start, spot.end))
        values += [*spot.items, *spot.entries.values()]
    found = []
    for start, end in spans:
        offset = start
        while (match := comment.search(content, offset, end)) is not None:
            within = [stop for begin, stop in scalars if begin <= match.start() < stop]
            if not within:
                found.append(match[0].lstrip("# ").rstrip())
            offset = within[0] if within else match.end()
    return [text for text in found if text]
