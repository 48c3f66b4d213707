"""What is decided before anything is executed, and what a command line adds to what a script declares."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cetool.app.sources import Source
from cetool.app.world import NOTHING, Evidence
from cetool.base.errors import UsageError
from cetool.base.process import Consent
from cetool.base.values import Value
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.metadata import ScriptMetadata
from cetool.declare.requirements import Requirements


class LockChoice(Value):
    """What a command line says of locks; ``--locked`` and ``--frozen`` are settings."""

    #: The lock of ``--lock-file``.
    file: Path | None = None
    #: Whether ``--no-lock`` was given.
    ignored: bool = False


class BaselineOptions(Value):
    """The options on baselines, as they were given."""

    #: Paths or URLs.
    named: tuple[str, ...] = ()
    #: Names, or globs of names, of packages that are taken out of them.
    without: tuple[str, ...] = ()
    #: Whether one may come over plain http.
    insecure: bool = False

    @classmethod
    def of(
        cls, named: Iterable[str] | None, without: Iterable[str] | None = None, *, insecure: bool = False
    ) -> BaselineOptions:
        """The options by what the command line has for them."""
        return cls(tuple(named or ()), tuple(without or ()), insecure)


NO_BASELINES = BaselineOptions()


class Wish(Value):
    """What a command line adds to what a script declares."""

    #: Match specs (``--with``).
    extra: tuple[str, ...] = ()
    #: The environment file of a script without a block.
    env_file: Path | None = None
    lock: LockChoice = LockChoice()
    #: A day, a moment or a span before now, as of which it is solved.
    exclude_newer: str | None = None
    baselines: BaselineOptions = NO_BASELINES
    #: The environment that it runs in, and what is laid over that.
    base: str | None = None
    overlay: tuple[str, ...] = ()
    #: Whether baselines count as they are now.
    refresh: bool = False
    #: Whether a script from a URL runs where there is no person to ask, unless a setting says otherwise.
    unasked: bool = False
    #: Whether ``/bin/sh`` runs a script that does not name its program, as conda-execute did.
    original: bool = False

    @property
    def describes_environment(self) -> bool:
        """Whether it can stand for a script's block: packages, a baseline or a lock file are named."""
        return bool(self.extra or self.baselines.named or self.lock.file is not None)

    @property
    def is_plain(self) -> bool:
        """Whether it changes nothing in what the script declares."""
        return self._replace(refresh=False, unasked=False, original=False) == _PLAIN


_PLAIN = Wish()


class Subject(Value):
    """What a user is asked about: a script, and what is known of what it would have done."""

    source: Source
    #: What it declares with what the command line adds; None where the command adds nothing.
    metadata: ScriptMetadata | None = None
    #: The platforms that the command is about; None is this machine's.
    platforms: tuple[str | None, ...] = (None,)
    #: See :class:`Wish`.
    unasked: bool = False


class BaselineUse(Value):
    """Which content of a baseline a script's environment is made from."""

    #: What the use is known by, and the baseline.
    key: str
    baseline: str
    #: The script's path or URL, and what messages call the baseline.
    about: str
    shown: str
    data: bytes


class OnBaselines(Value):
    """An environment's baselines, and what becomes of them."""

    #: What messages call them.
    named: tuple[str, ...]
    #: How many of their packages stay.
    packages: int
    #: The names of those that are taken out.
    removed: tuple[str, ...]
    #: The match specs and requirements that are put in.
    added: tuple[str, ...]
    #: What is to be remembered once it is made.
    uses: tuple[BaselineUse, ...] = ()


class Decision(Value):
    """Which environment it is to be, and why."""

    #: What is declared, with what the command line adds.
    metadata: ScriptMetadata
    spec: EnvironmentSpec
    #: The script, None for an environment of no script.
    source: Source | None = None
    #: Where the lock is that decides; None for what is solved.
    locked_by: str | None = None
    on_baselines: OnBaselines | None = None
    evidence: Evidence = NOTHING
    #: See :class:`Wish`.
    unasked: bool = False
    #: That the user agreed, where that was needed to decide: a baseline was fetched.
    agreed: Consent | None = None
    #: What the environment is for, which is shown where other processes wait for it.
    purpose: str = ""

    @property
    def requirements(self) -> Requirements:
        """What is asked for."""
        return self.metadata.requirements

    def on(self, *evidence: Evidence) -> Decision:
        """The same, which rests on this as well."""
        return self._replace(evidence=self.evidence.plus(*evidence))


def refuse_overlay(needs: Requirements, name: str, what: str) -> None:
    """Raise UsageError where the environment lies over another: it is not made of packages that can be listed."""
    if needs.overlay is not None:
        raise UsageError(
            f"{name} runs in what lies over {needs.overlay.base}, and {what}",
            hint="`cetool overlay freeze SCRIPT` writes down the two as one ordinary environment.",
        )
