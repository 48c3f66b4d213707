"""Change what a script declares, and nothing else: the new text is read again before it is written.

An edit is refused, and nothing is written, unless the block then declares exactly what was intended, and all else as
before; bytes outside the block are never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cetool.base.errors import MetadataError, UsageError
from cetool.base.text import nearest
from cetool.base.urls import redact, strip_credentials
from cetool.declare.blocks import CONDA_EXECUTE, PEP723, Block, Declaration, find_block, read_block
from cetool.declare.channels import canonical_channel
from cetool.declare.dialects.conda_execute import read_own_keys
from cetool.declare.dialects.uv import read_uv
from cetool.declare.match_fields import PACKAGE_NAME
from cetool.declare.match_specs import canonical_spec, spec_name
from cetool.declare.metadata import choose_program, nothing_found
from cetool.declare.platforms import current_platform, selectors
from cetool.declare.pypi import canonical_requirement
from cetool.declare.requirements import DEFAULT_CHANNEL, Requirements
from cetool.declare.source import Script
from cetool.edit.block_text import UneditableError
from cetool.edit.declared import DeclaredItem, Draft, block_tree, channels_place, draft_of, pypi_name, untouched
from cetool.edit.document import Document, NotWrittenError, require_script

_SECRET = "Do not write secrets into scripts: keep them in ~/.netrc, or in the channel's URL in .condarc."


@dataclass(frozen=True)
class BlockChange:
    """A change: match specs, PyPI requirements and channels to add, names to drop.

    All are as the user wrote them; relative paths start from the script's directory.
    """

    packages: tuple[str, ...] = ()
    pypi: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edited:
    """The file after an edit, and sentences about what that means."""

    document: Document
    notes: tuple[str, ...] = ()


#: A function that changes a script.
Editing = Callable[[Document], Edited]


def edit_declaration(document: Document, change: BlockChange) -> Edited:
    """Return the script with the change made.

    Raises MetadataError if the block or something to add is malformed; UsageError if a name to drop is not declared;
    NotWrittenError if the block is written in a way that cetool cannot safely change.
    """
    script = require_script(document)
    block = require_block(script)
    before = declaration(block, script)
    draft = draft_of(document, block)
    work = _Work(draft, script, before.requirements)
    old_root = draft.root
    try:
        for text in change.packages:
            work.add(text, "conda")
        for text in change.pypi:
            work.add(text, "pypi")
        for name in change.drop:
            work.drop(name)
        channels = work.add_channels(change.channels, before.requirements.channels)
    except UneditableError:
        raise unsafe(script, block) from None
    old = before.requirements
    if old.environment is not None:
        old._replace(packages=tuple(work.packages), pypi=tuple(work.pypi)).refuse_more(script.at(block.first))
    needs = work.packages or work.pypi or old.baselines or old.environment
    if not needs and block.dialect == CONDA_EXECUTE:
        raise UsageError("the script would declare no packages", hint="To remove the whole block, use an editor.")
    packages = set(work.packages)
    if block.dialect == PEP723 and not old.environment and not any(spec_name(spec) == "python" for spec in packages):
        packages.add("python")
    wanted = old._replace(packages=tuple(packages), pypi=tuple(work.pypi), channels=channels)
    if old.channels is None and channels is not None:
        wanted = wanted._replace(configured=block.dialect == CONDA_EXECUTE)
    new = draft.document()
    new_block, found = declared_again(new, block.dialect, lambda reason: unsafe(script, block, reason))
    same = comparable(found) == comparable(before._replace(requirements=wanted)) and new_block.first == block.first
    if not same or untouched(draft.root, block.dialect) != untouched(old_root, block.dialect):
        raise unsafe(script, block)
    return Edited(new, tuple(work.notes))


def require_block(script: Script) -> Block:
    """Return the script's block. Raises MetadataError if it has none, or a malformed one."""
    block = find_block(script)
    if block is None:
        raise nothing_found(script)
    return block


def declaration(block: Block, script: Script) -> Declaration:
    """Return what the block declares; a ``# conda execute`` block may have no packages yet. Raises MetadataError."""
    if block.dialect == CONDA_EXECUTE:
        found = read_own_keys(block_tree(block, script), "the '# conda execute' block", script.directory)
    else:
        found = read_block(block, script)
    if found.run_with is None and found.entrypoint is None:
        choice = choose_program(script, found.requirements, python=block.dialect == PEP723)
        return found._replace(run_with=choice.words)
    return found


def declared_again(
    document: Document, dialect: str, refusal: Callable[[str], NotWrittenError]
) -> tuple[Block, Declaration]:
    """Return the block of a changed file, and what it declares. Raises ``refusal(reason)`` if missing or malformed."""
    script = require_script(document)
    try:
        block = find_block(script)
        if block is not None and block.dialect == dialect:
            return block, declaration(block, script)
    except MetadataError as error:
        raise refusal(f": {error.message}") from None
    raise refusal("")


def comparable(declared: Declaration) -> object:
    """Return the declaration with unordered parts sorted, and without warnings, whose lines an edit moves."""
    needs = declared.requirements
    return declared._replace(
        requirements=needs._replace(
            packages=tuple(sorted(set(needs.packages))), pypi=tuple(sorted(set(needs.pypi))), warnings=()
        ),
    )


def unsafe(script: Script, block: Block, reason: str = "") -> NotWrittenError:
    """Return the error for a block that a program cannot safely change."""
    return NotWrittenError(
        f"cetool cannot safely change a block that is written in this way, so nothing was written{reason}",
        where=script.at(block.first),
        hint="Change it with an editor, then run `cetool check`.",
    )


def refuse_secret(text: str, what: str = "", hint: str = _SECRET) -> None:
    """Raise UsageError for a text with a password or a token; ``what`` comes before it in the message."""
    if strip_credentials(text) != text:
        raise UsageError(f"{what}'{redact(text)}' contains a password or a token", code="secret-refused", hint=hint)


class _Work:
    """The draft, its requirements after the change, and notes about it."""

    def __init__(self, draft: Draft, script: Script, before: Requirements) -> None:
        self.draft = draft
        self.script = script
        self.packages = list(before.packages)
        self.pypi = list(before.pypi)
        self.notes: list[str] = []

    def _named(self, kind: str, name: str) -> list[DeclaredItem]:
        return [item for item in self.draft.items if item.kind == kind and item.name == name]

    def _without(self, kind: str, name: str) -> None:
        self.packages = [spec for spec in self.packages if kind != "conda" or spec_name(spec) != name]
        self.pypi = [text for text in self.pypi if kind != "pypi" or pypi_name(text) != name]

    def drop(self, text: str) -> None:
        """Remove every package with a name, from conda and from PyPI, on every platform."""
        name = text.strip()
        if not PACKAGE_NAME.fullmatch(name.lower()):
            raise UsageError(f"{redact(text)!r} is not a package name", hint="Give only the name, such as numpy.")
        found = 0
        for kind, wanted in (("conda", name.lower()), ("pypi", pypi_name(name))):
            while items := self._named(kind, wanted):
                self.draft.remove(items[-1])
                found += 1
            self._without(kind, wanted)
        if not found:
            names = [item.name for item in self.draft.items]
            raise UsageError(
                f"the script declares no package {name!r}, so nothing was written",
                hint=nearest(name, names) if names else None,
            )

    def add(self, text: str, kind: str) -> None:
        """Add a match spec or a requirement; it replaces one with the same name."""
        text = text.strip()
        base = self.script.directory
        if kind == "conda":
            canonical = canonical_spec(text, base_dir=base)
            name = spec_name(canonical)
        else:
            canonical = canonical_requirement(text, base_dir=base)
            name = pypi_name(canonical)
        refuse_secret(text)
        items = self._named(kind, name)
        families = selectors(current_platform())
        own = next((item for item in items if item.platform in families), None)
        if own is not None:
            raise UsageError(
                f"{name} is declared separately for {own.platform}, at line {own.line} of {self.script.name}",
                hint="Change it there with an editor, or drop it first.",
            )
        items = [item for item in items if item.platform is None]
        meant = (canonical,) if kind == "conda" else self._with_sources(canonical)
        known = [each for each in (self.packages if kind == "conda" else self.pypi) if _name(each, kind) == name]
        bare = text.lower() == name or (kind == "pypi" and canonical == name)
        if items and bare and known:
            shown = known[0] if known[0] != name else "any version"
            self.notes.append(f"{name} is already declared ({redact(shown)}): unchanged")
            return
        if items and known == list(meant) and len(items) == 1 and (meant == (canonical,) or items[0].text == text):
            return
        self._without(kind, name)
        (self.packages if kind == "conda" else self.pypi).extend(meant)
        if not items:
            self._tell_of_namesake(name, kind)
            self.draft.add(text, pypi=kind == "pypi")
            return
        # removing one does not change the paths of those before it
        for item in reversed(items[1:]):
            self.draft.remove(item)
        self.draft.replace(items[0], text)

    def _with_sources(self, requirement: str) -> tuple[str, ...]:
        """Return what a requirement means in this block, where ``[tool.uv.sources]`` may apply."""
        uv = self.draft.root.below("tool", "uv") if self.draft.dialect == PEP723 else None
        if uv is None:
            return (requirement,)
        return read_uv(uv, base_dir=self.script.directory).sources.applied([requirement])

    def _tell_of_namesake(self, name: str, kind: str) -> None:
        other = "pypi" if kind == "conda" else "conda"
        if self._named(other, pypi_name(name)):
            places = ("PyPI", "conda") if other == "pypi" else ("conda", "PyPI")
            self.notes.append(
                f"{name} is also declared from {places[0]}; the package from PyPI replaces the conda package"
            )

    def add_channels(self, texts: Sequence[str], before: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Add channels after the named ones, without duplicates; return all channels."""
        named = before or ()
        new: dict[str, str] = {}
        for text in texts:
            refuse_secret(text, "the channel ")
            channel = canonical_channel(text, base_dir=self.script.directory)
            if channel not in named:
                new.setdefault(channel, text.strip())
        if not new:
            return before
        first: tuple[str, ...] = ()
        if channels_place(self.draft.root, self.draft.dialect) is None and DEFAULT_CHANNEL not in new:
            first = (DEFAULT_CHANNEL,)
            self.notes.append(f"added {DEFAULT_CHANNEL} as the first channel, since the script named none")
        self.draft.add_channels(list(new.values()), before=first)
        return (*named, *first, *new)


def _name(canonical: str, kind: str) -> str:
    return spec_name(canonical) if kind == "conda" else pypi_name(canonical)


def requirements_change(specs: Iterable[str], channels: Iterable[str], *, pypi: bool) -> BlockChange:
    """Return the change that ``cetool add`` makes. Raises UsageError if there is nothing to add."""
    texts = tuple(specs)
    change = BlockChange((), texts, tuple(channels)) if pypi else BlockChange(texts, (), tuple(channels))
    if not texts and not change.channels:
        raise UsageError("nothing to add", hint="Give match specs, or --channel.")
    return change
