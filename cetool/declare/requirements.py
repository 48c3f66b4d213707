"""Define what a script, a file or a command line requests; channels may be left open."""

from __future__ import annotations

import os
from typing import Any

from cetool.base.codec import canonical_json, sha256_of
from cetool.base.errors import Location, MetadataError
from cetool.base.text import pattern
from cetool.base.urls import strip_credentials
from cetool.base.values import Value, strings_in
from cetool.declare.match_specs import spec_name
from cetool.declare.pypi import PypiSettings

#: The channel to use if none is named.
DEFAULT_CHANNEL = "conda-forge"
#: What a baseline or base starts with that is an environment of a server.
SERVER = "server:"
#: The version of the encoding (docs/reference/specification.md); raised when the meaning of a request changes.
DIGEST_SCHEMA = 2

# parts that schema 1 also had, but that the embedded engine ignored or compared differently
_NEW_IN_2 = pattern(r"/(?:noarch|[a-z0-9]+-[a-z0-9]+)::|[\[,] ?(?:subdir|fn|extras|license|license_family)=")


class Solving(Value):
    """How conda packages are solved, if a script says so (``[tool.pixi]``): all optional."""

    #: Canonical match specs that indirect dependencies must match.
    constraints: tuple[str, ...] = ()
    #: ``strict``, ``flexible`` or ``disabled``.
    channel_priority: str | None = None
    #: ``lowest`` or ``lowest-direct``.
    strategy: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values, without unset ones and credentials."""
        pairs = {
            "channel-priority": self.channel_priority,
            "constraints": [strip_credentials(spec) for spec in self.constraints],
            "strategy": self.strategy,
        }
        return {key: value for key, value in pairs.items() if value}

    @staticmethod
    def json_key(field: str) -> str:
        """Return the key of a field in a document."""
        return field.replace("_", "-")

    def plus(self, other: Solving) -> Solving:
        """Combine two values; the other's single values win."""
        return Solving(
            tuple(sorted({*self.constraints, *other.constraints})),
            self.channel_priority if other.channel_priority is None else other.channel_priority,
            self.strategy if other.strategy is None else other.strategy,
        )


NO_SOLVING = Solving()


class Ignored(Value):
    """Something in a declaration that cetool ignores, which is shown once: the sentence, and its place."""

    text: str
    where: Location

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class OverlayKeys(Value):
    """What to lay over an existing environment."""

    #: Its name or absolute path.
    base: str
    #: Canonical entries (:func:`cetool.declare.overlay.canonical_entry`).
    entries: tuple[str, ...] = ()
    #: Canonical match specs.
    conda: tuple[str, ...] = ()


class Requirements(Value):
    """What was requested, in the order of the request."""

    #: Canonical match specs; with an overlay, only a python that the base must have.
    packages: tuple[str, ...] = ()
    #: Canonical names or URLs of channels, None if none were named.
    channels: tuple[str, ...] | None = None
    #: Canonical PEP 508 requirements.
    pypi: tuple[str, ...] = ()
    pypi_settings: PypiSettings = PypiSettings()
    #: Pairs of name and value.
    variables: tuple[tuple[str, str], ...] = ()
    warnings: tuple[Ignored, ...] = ()
    #: URLs or absolute paths of lists of packages to start from; later ones win.
    baselines: tuple[str, ...] = ()
    #: Names, or globs of names, to leave out of them.
    without: tuple[str, ...] = ()
    overlay: OverlayKeys | None = None
    #: Whether the configured channels follow the named ones, as for ``# conda execute`` and CEP 24.
    configured: bool = False
    solving: Solving = NO_SOLVING
    #: The moment (RFC 3339, UTC) as of which packages are chosen.
    exclude_newer: str | None = None
    #: The absolute paths of requirements files that were read.
    files: tuple[str, ...] = ()
    #: The name of a server's environment (:class:`cetool.declare.named.Named`), which has all the packages.
    environment: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """All strings in the request at any depth, except variables: the sources of packages."""
        return tuple(strings_in(self._replace(variables=(), warnings=())))

    @property
    def digest(self) -> str:
        """SHA-256 (64 hex digits) of the request, which shows whether a lock was made for it.

        Open channels stay open: what another machine's configuration says does not change the request. Variables and
        credentials are left out, since they select no packages.
        """
        asked: dict[str, Any] = {
            "packages": sorted({strip_credentials(spec) for spec in self.packages}),
            "pypi": sorted({strip_credentials(requirement) for requirement in self.pypi}),
            "pypi-settings": self.pypi_settings.as_dict() if self.pypi else {},
        }
        if self.channels is not None:
            asked["channels"] = [strip_credentials(channel) for channel in dict.fromkeys(self.channels)]
            if self.configured:
                asked["configured"] = True
        if self.baselines:
            # of a file only its name: a lock moves between machines with its script
            asked["baselines"] = [
                strip_credentials(each) if "://" in each or each.startswith(SERVER) else os.path.basename(each)
                for each in self.baselines
            ]
            asked["without"] = sorted(set(self.without))
        if self.environment is not None:
            asked["environment"] = self.environment
        if self.solving != NO_SOLVING:
            asked["solving"] = self.solving.as_dict()
        if self.exclude_newer is not None:
            asked["exclude-newer"] = self.exclude_newer
        return sha256_of(canonical_json({**asked, **schema_of(self.packages)}).encode())

    def is_request(self, digest: str) -> bool:
        """Return whether a lock with this digest of its request was made for this one.

        A lock made for the named channels alone also matches: earlier versions of cetool wrote such locks before they
        added the configured channels.
        """
        return digest == self.digest or (self.configured and digest == self._replace(configured=False).digest)

    def channels_after(self, configured: tuple[str, ...]) -> tuple[str, ...]:
        """Return all channels in order, given those of the configuration."""
        if self.channels is None:
            return tuple(dict.fromkeys(configured))
        return tuple(dict.fromkeys((*self.channels, *configured) if self.configured else self.channels))

    @property
    def needs_configured(self) -> bool:
        """Whether the configured channels are used."""
        return self.channels is None or self.configured

    def refuse_packages(self, where: Location | None) -> None:
        """Raise MetadataError for conda packages other than python next to a base."""
        others = [spec for spec in self.packages if spec_name(spec) != "python"]
        if others:
            message = "the base already has its packages; these cannot be added to it"
            raise MetadataError(
                f"{message}: {', '.join(others)}",
                code="overlay-conflict",
                where=where,
                hint="Lay packages over it: conda packages under 'conda:', Python packages under 'overlay:'.",
            )

    def refuse_more(self, where: Location | None) -> None:
        """Raise MetadataError for packages other than python next to a server's environment."""
        others = [*(spec for spec in self.packages if spec_name(spec) != "python"), *self.pypi]
        others += ["base"] if self.overlay is not None else []
        others += ["baseline"] if self.baselines else []
        if others:
            raise MetadataError(
                f"the environment {self.environment} has its packages already; these cannot be added to it: "
                f"{', '.join(others)}",
                code="baseline-conflict",
                where=where,
                hint=f"To add packages, start from it: baseline: server:{self.environment}",
            )

    def plus(self, other: Requirements) -> Requirements:
        """Combine two requests; the other's channels and single PyPI settings win."""
        return Requirements(
            packages=self.packages + other.packages,
            channels=self.channels if other.channels is None else other.channels,
            pypi=self.pypi + other.pypi,
            pypi_settings=self.pypi_settings.plus(other.pypi_settings),
            variables=tuple({**dict(self.variables), **dict(other.variables)}.items()),
            warnings=self.warnings + other.warnings,
            baselines=tuple(dict.fromkeys(self.baselines + other.baselines)),
            without=tuple(dict.fromkeys(self.without + other.without)),
            overlay=self.overlay if other.overlay is None else other.overlay,
            configured=self.configured if other.channels is None else other.configured,
            solving=self.solving.plus(other.solving),
            exclude_newer=self.exclude_newer if other.exclude_newer is None else other.exclude_newer,
            files=tuple(dict.fromkeys(self.files + other.files)),
            environment=self.environment if other.environment is None else other.environment,
        )


def schema_of(specs: tuple[str, ...]) -> dict[str, int]:
    """Return the schema's number if a request has another meaning than under earlier schemas; else nothing."""
    return {"schema": DIGEST_SCHEMA} if any(map(_NEW_IN_2.search, specs)) else {}
