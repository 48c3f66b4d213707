"""What is decided before anything is executed, and what a command line adds to a script's declaration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from cetool.app.sources import Source
from cetool.app.world import NOTHING, Evidence
from cetool.base.errors import CetoolError, UsageError
from cetool.base.process import Consent
from cetool.base.text import pattern
from cetool.base.values import Value
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.metadata import ScriptMetadata
from cetool.declare.requirements import Requirements

#: The errors that are about one of the declared packages or channels.
_PLACED = ("package-not-found", "pypi-not-found", "channel-not-found", "spec-unsatisfiable")
_NAME = pattern(r"[^\s,<>=!~\[]+")

_E = TypeVar("_E", bound=CetoolError)


class LockChoice(Value):
    """The command line's choice of a lock; ``--locked`` and ``--frozen`` are settings."""

    #: The file given with ``--lock-file``.
    file: Path | None = None
    #: Whether ``--no-lock`` was given.
    ignored: bool = False


class BaselineOptions(Value):
    """The options for baselines, as given."""

    #: Paths or URLs.
    named: tuple[str, ...] = ()
    #: Names, or globs, of packages to remove from them.
    without: tuple[str, ...] = ()
    #: Whether plain http is allowed.
    insecure: bool = False

    @classmethod
    def of(
        cls, named: Iterable[str] | None, without: Iterable[str] | None = None, *, insecure: bool = False
    ) -> BaselineOptions:
        """Return the options for the command line's values."""
        return cls(tuple(named or ()), tuple(without or ()), insecure)


NO_BASELINES = BaselineOptions()


class Wish(Value):
    """What a command line adds to a script's declaration."""

    #: Match specs (``--with``).
    extra: tuple[str, ...] = ()
    #: The environment file for a script without a block.
    env_file: Path | None = None
    lock: LockChoice = LockChoice()
    #: A date, a time or a span before now; the solve ignores newer packages.
    exclude_newer: str | None = None
    baselines: BaselineOptions = NO_BASELINES
    #: The base to run in, and the entries of its overlay.
    base: str | None = None
    overlay: tuple[str, ...] = ()
    #: The environment of a server to run in.
    environment: str | None = None
    #: Whether to use the current content of baselines.
    refresh: bool = False
    #: Whether a script from a URL may run where no user can be asked, unless a setting forbids it.
    unasked: bool = False
    #: Whether ``/bin/sh`` runs a script that names no program, as in conda-execute.
    original: bool = False

    @property
    def describes_environment(self) -> bool:
        """Whether it can stand for a script's block: packages, a baseline, a lock or an environment are named."""
        return bool(self.extra or self.baselines.named or self.lock.file is not None or self.environment)

    @property
    def is_plain(self) -> bool:
        """Whether it changes nothing in the script's declaration."""
        return self._replace(refresh=False, unasked=False, original=False) == _PLAIN


_PLAIN = Wish()


class Subject(Value):
    """What a user is asked about: a script, and what is known about what would run."""

    source: Source
    #: Its declaration with the command line's additions; None if the command has none.
    metadata: ScriptMetadata | None = None
    #: The platforms of the command; None is this machine's.
    platforms: tuple[str | None, ...] = (None,)
    #: See :class:`Wish`.
    unasked: bool = False


class BaselineUse(Value):
    """The content of a baseline from which a script's environment is made."""

    #: The keys of the use, and of the baseline.
    key: str
    baseline: str
    #: The script's path or URL, and the baseline's name in messages.
    about: str
    shown: str
    data: bytes


class OnBaselines(Value):
    """An environment's baselines, and the changes to them."""

    #: Their names in messages.
    named: tuple[str, ...]
    #: The number of their packages that stay.
    packages: int
    #: The names of those that are removed.
    removed: tuple[str, ...]
    #: The match specs and requirements that are added.
    added: tuple[str, ...]
    #: What to note after the environment is made.
    uses: tuple[BaselineUse, ...] = ()


class Decision(Value):
    """Which environment to use, and why."""

    #: The declaration, with the command line's additions.
    metadata: ScriptMetadata
    spec: EnvironmentSpec
    #: The script; None for an environment without one.
    source: Source | None = None
    #: The lock that decides; None for a solve.
    locked_by: str | None = None
    on_baselines: OnBaselines | None = None
    evidence: Evidence = NOTHING
    #: See :class:`Wish`.
    unasked: bool = False
    #: The user's consent, if it was needed for the decision: a baseline was downloaded.
    agreed: Consent | None = None
    #: The environment of a server that was asked for by name: what :mod:`cetool.app.named` found.
    named: Any = None
    #: What the environment is for; shown to processes that wait for it.
    purpose: str = ""

    @property
    def requirements(self) -> Requirements:
        """What was requested."""
        return self.metadata.requirements

    def on(self, *evidence: Evidence) -> Decision:
        """Return the decision with more evidence."""
        return self._replace(evidence=self.evidence.plus(*evidence))


def refuse_named(needs: Requirements, name: str, what: str) -> None:
    """Raise UsageError for an environment of a server, whose packages the server chooses."""
    if needs.environment is not None:
        raise UsageError(
            f"{name} runs in the environment {needs.environment} of a server; {what}",
            hint=f"`cetool env log {needs.environment}` shows how it was built; "
            f"`cetool run --env {needs.environment}@BUILD` keeps one of its builds.",
        )


def refuse_overlay(needs: Requirements, name: str, what: str) -> None:
    """Raise UsageError for an overlay, whose packages cannot be listed."""
    if needs.overlay is not None:
        raise UsageError(
            f"{name} runs in an overlay on {needs.overlay.base}; {what}",
            hint="`cetool overlay freeze SCRIPT` writes base and overlay as one ordinary environment.",
        )


def placed(error: _E, source: Source | None, metadata: ScriptMetadata) -> _E:
    """Return the error, with the line of the block if it is about a package or channel that the script declares."""
    if error.where or source is None or metadata.lines is None or metadata.cell is not None:
        return error
    name = _NAME.match(error.about or "")
    if error.code not in _PLACED or name is None:
        return error
    first, last = metadata.lines
    rows = source.script.text.split("\n")[first - 1 : last]
    written = re.compile(rf"(?<![\w.-]){re.escape(name[0])}(?![\w-])", re.IGNORECASE)
    line = next((number for number, row in enumerate(rows, first) if written.search(row)), None)
    return error if line is None else error.but(where=source.script.at(line))
