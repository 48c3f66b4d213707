"""What an environment is: a frozen value that names itself by the digest of its canonical form.

:class:`Requirements` is what a script, a file or a command line asks for, channels possibly left open;
:class:`EnvironmentSpec` is the complete request, with the channels that are in force here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from cetool.base.errors import Location
from cetool.base.files import canonical_json, sha256_of
from cetool.base.patterns import pattern
from cetool.base.urls import strip_credentials
from cetool.base.values import Value, strings_in
from cetool.declare.overlay import OverlayKeys, OverlaySpec
from cetool.declare.package import Package, PypiPackage
from cetool.declare.pypi import PypiSettings

#: The channel that is meant where nothing names one.
DEFAULT_CHANNEL = "conda-forge"
#: Hex digits of the SHA-256 that name an environment (the original's length).
NAME_LENGTH = 20

#: How a request is encoded to be hashed, as docs/specification.md has it. Raised when what a request means changes.
DIGEST_SCHEMA = 2

_PYTHON = pattern(r"(?:.*::)?python(?![A-Za-z0-9_.-])")
# what schema 1 had as well, and the embedded engine ignored or compared otherwise
_NEW_IN_2 = pattern(r"/(?:noarch|[a-z0-9]+-[a-z0-9]+)::|[\[,] ?(?:subdir|fn|extras|license|license_family)=")


_NO_SETTINGS = PypiSettings()


class Solving(Value):
    """How conda packages are solved, where a script says so (``[tool.pixi]``): all optional.

    ``constraints`` are canonical match specs that packages have to fit which come by way of others;
    ``channel_priority`` is ``strict``, ``flexible`` or ``disabled``, ``strategy`` ``lowest`` or ``lowest-direct``.
    """

    constraints: tuple[str, ...] = ()
    channel_priority: str | None = None
    strategy: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """What is set, as JSON values, credentials taken out."""
        pairs = {
            "channel-priority": self.channel_priority,
            "constraints": [strip_credentials(spec) for spec in self.constraints],
            "strategy": self.strategy,
        }
        return {key: value for key, value in pairs.items() if value}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Solving:
        """What :meth:`as_dict` wrote. Raises TypeError or AttributeError where it is none."""
        return cls(tuple(data.get("constraints", ())), data.get("channel-priority"), data.get("strategy"))

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


class Requirements(Value):
    """What was asked for, in the order it was asked.

    ``packages`` are canonical match specs (``str(MatchSpec)``), ``channels`` canonical channel names or URLs, None
    where none were named, ``pypi`` canonical PEP 508 requirements, ``variables`` pairs of name and value. With
    ``configured`` the configured channels come after those named, which is what ``# conda execute`` and
    ``environment.yml`` mean (CEP 24); otherwise the named ones are all there are.

    ``overlay`` names an existing environment and what to lay over it; the
    PyPI requirements are then among the latter, and ``packages`` say no more than which python will do. ``baselines``
    are URLs or absolute paths of lists of packages to start from, a later one winning, and ``without`` names, or globs
    of names, that are taken out of them. ``exclude_newer`` is the moment (RFC 3339, UTC) as of which it is solved.
    ``files`` are the absolute paths of requirements files that were read.
    """

    packages: tuple[str, ...] = ()
    channels: tuple[str, ...] | None = None
    pypi: tuple[str, ...] = ()
    pypi_settings: PypiSettings = PypiSettings()
    variables: tuple[tuple[str, str], ...] = ()
    warnings: tuple[Ignored, ...] = ()
    baselines: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    overlay: OverlayKeys | None = None
    configured: bool = False
    solving: Solving = NO_SOLVING
    exclude_newer: str | None = None
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
        return sha256_of(canonical_json({**asked, **_schema_of(self.packages)}).encode())

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


class EnvironmentSpec(Value):
    """The complete request for an environment, in canonical form; equal values are one environment.

    ``packages`` are canonical match specs, sorted and without repeats; ``channels`` keep their order, which is their
    priority; ``virtual_packages`` are pairs like ``("__cuda", "12.4")`` that replace what the machine would report
    (conda's ``CONDA_OVERRIDE_*``). ``exclude_newer`` is the moment (RFC 3339, UTC) as of which packages are chosen, of
    channels and of indexes, None for now. With an ``overlay`` it is what lies over an existing environment, and has no
    ``packages`` of its own.

    Where a lock says which packages exactly, ``explicit`` are its lines of an explicit spec (CEP 23) in topological
    order and ``explicit_pypi`` its direct references (PEP 508): then nothing is solved, and ``packages``, ``channels``
    and ``pypi`` only tell what the lock was made for.

    Where something is added to a baseline, ``pinned`` and ``pinned_pypi`` are, in the same form, what stays of the
    baseline, and ``packages`` and ``pypi`` what is solved with those as they are.
    """

    packages: tuple[str, ...]
    channels: tuple[str, ...] = (DEFAULT_CHANNEL,)
    pypi: tuple[str, ...] = ()
    pypi_settings: PypiSettings = PypiSettings()
    variables: tuple[tuple[str, str], ...] = ()
    virtual_packages: tuple[tuple[str, str], ...] = ()
    explicit: tuple[Package, ...] = ()
    explicit_pypi: tuple[PypiPackage, ...] = ()
    exclude_newer: str | None = None
    pinned: tuple[Package, ...] = ()
    pinned_pypi: tuple[PypiPackage, ...] = ()
    overlay: OverlaySpec | None = None
    solving: Solving = NO_SOLVING

    @property
    def is_locked(self) -> bool:
        """Whether a lock says which packages exactly."""
        return bool(self.explicit or self.explicit_pypi)

    @classmethod
    def of(
        cls,
        requirements: Requirements,
        *,
        default_channels: tuple[str, ...] = (DEFAULT_CHANNEL,),
        virtual_packages: tuple[tuple[str, str], ...] = (),
    ) -> EnvironmentSpec:
        """The spec of these requirements with all their channels, python added where PyPI packages need one."""
        packages = set(requirements.packages)
        if requirements.pypi and not any(_PYTHON.match(spec) for spec in packages):
            packages.add("python")
        return cls(
            packages=tuple(sorted(packages)),
            channels=requirements.channels_after(default_channels),
            pypi=tuple(sorted(set(requirements.pypi))),
            pypi_settings=requirements.pypi_settings if requirements.pypi else PypiSettings(),
            variables=tuple(sorted(dict(requirements.variables).items())),
            virtual_packages=tuple(sorted(virtual_packages)),
            solving=requirements.solving,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the encoding that docs/specification.md defines, 64 hex digits.

        Of a plain request for the default channel it is taken over the sorted specs joined by newlines, as
        conda-execute did; whatever else is asked for follows as canonical JSON. Credentials take no part in it. Of a
        locked one it is taken over the locked packages and the variables alone: equal locks are one environment; only
        settings of builds follow where a package is built from source.
        """
        return sha256_of(self.encoding.encode("utf-8", "surrogatepass"))

    @property
    def encoding(self) -> str:
        """What the digest is taken over: ASCII text, but for the URLs of a lock."""
        if self.is_locked:
            lines = sorted([*_lines(self.explicit), *_lines(self.explicit_pypi)])
            variables = {"schema": DIGEST_SCHEMA, "variables": dict(self.variables)}
            # without variables schema 1 wrote (), and schema 2 still does
            head = ["@EXPLICIT", *lines, canonical_json(variables) if self.variables else "()"]
            builds = self.pypi_settings.of_builds if any(package.is_built for package in self.explicit_pypi) else {}
            return "\n".join([*head, *([canonical_json({"builds": builds})] if builds else [])])
        # sorted without their credentials, which might order them otherwise
        text = "\n".join(sorted({strip_credentials(spec) for spec in self.packages}))
        extra = {key: value for key, value in self._as_dict().items() if key != "packages"}
        if extra.get("channels") == [DEFAULT_CHANNEL]:
            del extra["channels"]
        extra |= _schema_of((*self.packages, *(self.overlay.conda if self.overlay is not None else ())))
        return f"{text}\n\n{canonical_json(extra)}" if extra else text

    @property
    def name(self) -> str:
        """The first :data:`NAME_LENGTH` hex digits of the digest: what the environment's directory is called."""
        return self.digest[:NAME_LENGTH]

    def _as_dict(self) -> dict[str, Any]:
        pairs: dict[str, Any] = {
            "packages": [strip_credentials(spec) for spec in self.packages],
            "channels": [strip_credentials(channel) for channel in self.channels],
            "pypi": sorted(map(strip_credentials, self.pypi)),
            "pypi-settings": self.pypi_settings.as_dict(),
            "variables": dict(self.variables),
            "virtual-packages": dict(self.virtual_packages),
            "explicit": _lines(self.explicit),
            "explicit-pypi": _lines(self.explicit_pypi),
            "exclude-newer": self.exclude_newer,
            "pinned": _lines(self.pinned),
            "pinned-pypi": _lines(self.pinned_pypi),
            "overlay": None if self.overlay is None else self.overlay.as_dict(),
            "solving": self.solving.as_dict(),
        }
        return {key: value for key, value in pairs.items() if value}

    def as_dict(self) -> dict[str, Any]:
        """The spec as JSON values, empty parts left out, credentials taken out: what may be stored and shown."""
        return self._as_dict()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EnvironmentSpec:
        """The spec that :meth:`as_dict` wrote. Raises KeyError, TypeError or ValueError where it is not one."""
        overlay, settings = None, data.get("pypi-settings")
        if "overlay" in data:
            overlay = OverlaySpec.from_dict(data["overlay"])
        return cls(
            packages=_texts(data, "packages"),
            channels=_texts(data, "channels"),
            pypi=_texts(data, "pypi"),
            pypi_settings=_NO_SETTINGS if settings is None else PypiSettings.from_dict(settings),
            variables=_pairs(data, "variables"),
            virtual_packages=_pairs(data, "virtual-packages"),
            explicit=tuple(map(Package.from_line, _texts(data, "explicit"))),
            explicit_pypi=tuple(map(PypiPackage.from_line, _texts(data, "explicit-pypi"))),
            exclude_newer=None if data.get("exclude-newer") is None else str(data["exclude-newer"]),
            pinned=tuple(map(Package.from_line, _texts(data, "pinned"))),
            pinned_pypi=tuple(map(PypiPackage.from_line, _texts(data, "pinned-pypi"))),
            overlay=overlay,
            solving=Solving.from_dict(data["solving"]) if "solving" in data else NO_SOLVING,
        )

    def redacted(self) -> EnvironmentSpec:
        """The same spec without credentials: for messages."""
        return self._replace(
            packages=tuple(map(strip_credentials, self.packages)),
            channels=tuple(map(strip_credentials, self.channels)),
            pypi=tuple(map(strip_credentials, self.pypi)),
        )


def _schema_of(specs: tuple[str, ...]) -> dict[str, int]:
    """The schema's number where a request means something else than under the schemas before; else they all agree."""
    return {"schema": DIGEST_SCHEMA} if any(map(_NEW_IN_2.search, specs)) else {}


def _lines(packages: Sequence[Package | PypiPackage]) -> list[str]:
    return [strip_credentials(package.line) for package in packages]


# Ten thousand markers are read to list as many environments: what is not there takes no time.


def _texts(data: dict[str, Any], key: str) -> tuple[str, ...]:
    return tuple(map(str, data[key])) if key in data else ()


def _pairs(data: dict[str, Any], key: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((str(name), str(value)) for name, value in data[key].items())) if key in data else ()
