"""What a script, a file or a command line asks for, channels possibly left open."""

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

#: The channel that is meant where nothing names one.
DEFAULT_CHANNEL = "conda-forge"
#: The version of the encoding in docs/reference/specification.md. Raised when the meaning of a request changes.
DIGEST_SCHEMA = 2

# what schema 1 had as well, and the embedded engine ignored or compared otherwise
_NEW_IN_2 = pattern(r"/(?:noarch|[a-z0-9]+-[a-z0-9]+)::|[\[,] ?(?:subdir|fn|extras|license|license_family)=")


class Solving(Value):
    """How conda packages are solved, where a script says so (``[tool.pixi]``): all optional."""

    #: Canonical match specs that packages have to fit which others require.
    constraints: tuple[str, ...] = ()
    #: ``strict``, ``flexible`` or ``disabled``.
    channel_priority: str | None = None
    #: ``lowest`` or ``lowest-direct``.
    strategy: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """What is set, as JSON values, credentials taken out."""
        pairs = {
            "channel-priority": self.channel_priority,
            "constraints": [strip_credentials(spec) for spec in self.constraints],
            "strategy": self.strategy,
        }
        return {key: value for key, value in pairs.items() if value}

    @staticmethod
    def json_key(field: str) -> str:
        """The key of a field in a document."""
        return field.replace("_", "-")

    def plus(self, other: Solving) -> Solving:
        """These and the other's as well; of single values the other's wins."""
        return Solving(
            tuple(sorted({*self.constraints, *other.constraints})),
            self.channel_priority if other.channel_priority is None else other.channel_priority,
            self.strategy if other.strategy is None else other.strategy,
        )


NO_SOLVING = Solving()


class Ignored(Value):
    """Something in a declaration that cetool passes over, which the user sees once: the sentence, and its place."""

    text: str
    where: Location

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


class OverlayKeys(Value):
    """What is to be laid over an existing environment."""

    #: Its name or absolute path.
    base: str
    #: Canonical entries (:func:`cetool.declare.overlay.canonical_entry`).
    entries: tuple[str, ...] = ()
    #: Canonical match specs.
    conda: tuple[str, ...] = ()


class Requirements(Value):
    """What was asked for, in the order it was asked."""

    #: Canonical match specs; with an overlay they say no more than which python will do.
    packages: tuple[str, ...] = ()
    #: Canonical names or URLs of channels, None where none were named.
    channels: tuple[str, ...] | None = None
    #: Canonical PEP 508 requirements.
    pypi: tuple[str, ...] = ()
    pypi_settings: PypiSettings = PypiSettings()
    #: Pairs of name and value.
    variables: tuple[tuple[str, str], ...] = ()
    warnings: tuple[Ignored, ...] = ()
    #: URLs or absolute paths of lists of packages to start from, a later one winning.
    baselines: tuple[str, ...] = ()
    #: Names, or globs of names, that are taken out of them.
    without: tuple[str, ...] = ()
    overlay: OverlayKeys | None = None
    #: Whether the configured channels come after those named, as for ``# conda execute`` and CEP 24.
    configured: bool = False
    solving: Solving = NO_SOLVING
    #: The moment (RFC 3339, UTC) as of which packages are chosen.
    exclude_newer: str | None = None
    #: The absolute paths of requirements files that were read.
    files: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts in what was asked for, however deep, without variables: where packages come from."""
        return tuple(strings_in(self._replace(variables=(), warnings=())))

    @property
    def digest(self) -> str:
        """SHA-256 (64 hex digits) of what was asked for, by which a lock knows whether it was made for this.

        Channels that were left open stay so: what another machine's configuration puts there is no other request.
        Variables take no part, for they choose no packages; nor do credentials.
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
            # of a file only what it is called: a lock goes with its script from machine to machine
            asked["baselines"] = [
                strip_credentials(each) if "://" in each else os.path.basename(each) for each in self.baselines
            ]
            asked["without"] = sorted(set(self.without))
        if self.solving != NO_SOLVING:
            asked["solving"] = self.solving.as_dict()
        if self.exclude_newer is not None:
            asked["exclude-newer"] = self.exclude_newer
        return sha256_of(canonical_json({**asked, **schema_of(self.packages)}).encode())

    def is_request(self, digest: str) -> bool:
        """Whether a lock with this digest of its request was made for these.

        One that was made for the named channels alone fits as well: cetool wrote such locks before the configured
        channels came after them.
        """
        return digest == self.digest or (self.configured and digest == self._replace(configured=False).digest)

    def channels_after(self, configured: tuple[str, ...]) -> tuple[str, ...]:
        """All channels in their order, where ``configured`` are those of the configuration."""
        if self.channels is None:
            return tuple(dict.fromkeys(configured))
        return tuple(dict.fromkeys((*self.channels, *configured) if self.configured else self.channels))

    @property
    def needs_configured(self) -> bool:
        """Whether the configured channels count."""
        return self.channels is None or self.configured

    def refuse_packages(self, where: Location | None) -> None:
        """Raise MetadataError for conda packages next to a base; a python may be asked for."""
        others = [spec for spec in self.packages if spec_name(spec) != "python"]
        if others:
            message = "'base' names an environment that brings its own packages, and others are asked for"
            raise MetadataError(
                f"{message}: {', '.join(others)}",
                code="overlay-conflict",
                where=where,
                hint="List conda packages to lay over the base under 'conda:', Python packages under 'overlay:'.",
            )

    def plus(self, other: Requirements) -> Requirements:
        """These and the other's as well; the other's channels and PyPI settings win where it has some."""
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
        )


def schema_of(specs: tuple[str, ...]) -> dict[str, int]:
    """The schema's number where a request means something else than under the schemas before; else they all agree."""
    return {"schema": DIGEST_SCHEMA} if any(map(_NEW_IN_2.search, specs)) else {}
