"""Define the specification of an environment: a frozen value, named by the digest of its canonical form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cetool.base.codec import canonical_json, decode, sha256_of
from cetool.base.text import pattern
from cetool.base.urls import strip_credentials
from cetool.base.values import Value
from cetool.declare.package import Package, PypiPackage
from cetool.declare.pypi import PypiSettings
from cetool.declare.requirements import DEFAULT_CHANNEL, DIGEST_SCHEMA, NO_SOLVING, Requirements, Solving, schema_of

#: Hex digits of the SHA-256 in an environment's name (as many as conda-execute used).
NAME_LENGTH = 20

_PYTHON = pattern(r"(?:.*::)?python(?![A-Za-z0-9_.-])")
_NO_SETTINGS = PypiSettings()


class Solve(Value):
    """Packages to solve for, sorted, without duplicates."""

    #: Canonical match specs.
    packages: tuple[str, ...] = ()
    #: Canonical PEP 508 requirements.
    pypi: tuple[str, ...] = ()


class Exact(Value):
    """Exact packages from a lock or a run record: nothing is solved."""

    #: In topological order.
    conda: tuple[Package, ...] = ()
    pypi: tuple[PypiPackage, ...] = ()
    #: The requirements that the lock was made for.
    asked: Solve = Solve()


class Over(Value):
    """The exact packages of a baseline, and what is solved in addition."""

    conda: tuple[Package, ...] = ()
    pypi: tuple[PypiPackage, ...] = ()
    added: Solve = Solve()


class Overlay(Value):
    """What is laid over an existing environment; equal values share one directory."""

    #: The absolute path of the prefix below.
    base: str
    #: Canonical entries (:func:`cetool.declare.overlay.canonical_entry`), sorted, without duplicates.
    requirements: tuple[str, ...] = ()
    #: Canonical match specs, sorted, without duplicates.
    conda: tuple[str, ...] = ()
    #: A match spec that the base's python must match (from ``requires-python``).
    python: tuple[str, ...] = ()
    #: Pairs: an entry that is a local file or directory, and a value that changes when it does.
    states: tuple[tuple[str, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values, without empty parts and credentials."""
        pairs = {
            "base": self.base,
            "requirements": list(map(strip_credentials, self.requirements)),
            "conda": list(map(strip_credentials, self.conda)),
            "python": list(self.python),
            "states": dict(self.states),
        }
        return {key: value for key, value in pairs.items() if value}


class EnvironmentSpec(Value):
    """The complete specification of an environment, in canonical form; equal values are the same environment."""

    what: Solve | Exact | Over | Overlay
    #: In order of priority.
    channels: tuple[str, ...] = (DEFAULT_CHANNEL,)
    pypi_settings: PypiSettings = PypiSettings()
    #: Pairs of name and value.
    variables: tuple[tuple[str, str], ...] = ()
    #: Pairs such as ``("__cuda", "12.4")`` that override what the machine reports (conda's ``CONDA_OVERRIDE_*``).
    virtual_packages: tuple[tuple[str, str], ...] = ()
    #: The moment (RFC 3339, UTC) as of which packages are chosen from channels and indexes; None for now.
    exclude_newer: str | None = None
    solving: Solving = NO_SOLVING

    @classmethod
    def of(
        cls,
        requirements: Requirements,
        *,
        default_channels: tuple[str, ...] = (DEFAULT_CHANNEL,),
        virtual_packages: tuple[tuple[str, str], ...] = (),
    ) -> EnvironmentSpec:
        """Return the specification of these requirements, with all channels, and python if PyPI packages need it."""
        packages = set(requirements.packages)
        if requirements.pypi and not any(_PYTHON.match(spec) for spec in packages):
            packages.add("python")
        return cls(
            Solve(tuple(sorted(packages)), tuple(sorted(set(requirements.pypi)))),
            channels=requirements.channels_after(default_channels),
            pypi_settings=requirements.pypi_settings if requirements.pypi else PypiSettings(),
            variables=tuple(sorted(dict(requirements.variables).items())),
            virtual_packages=tuple(sorted(virtual_packages)),
            solving=requirements.solving,
        )

    def exactly(self, conda: tuple[Package, ...], pypi: tuple[PypiPackage, ...]) -> EnvironmentSpec:
        """Return the same with exactly these packages; unchanged if there are none."""
        return self._replace(what=Exact(conda, pypi, self.asked)) if conda or pypi else self

    def over(
        self, conda: tuple[Package, ...], pypi: tuple[PypiPackage, ...], added_pypi: tuple[str, ...]
    ) -> EnvironmentSpec:
        """Return the same on top of a baseline's packages, which meet all PyPI requirements but ``added_pypi``."""
        asked = Solve(self.packages, added_pypi)
        return self._replace(what=Over(conda, pypi, asked) if conda or pypi else asked)

    @property
    def asked(self) -> Solve:
        """The requested specs and requirements, already solved or not."""
        match self.what:
            case Solve():
                return self.what
            case Exact(asked=asked) | Over(added=asked):
                return asked
            case _:
                return Solve()

    @property
    def packages(self) -> tuple[str, ...]:
        """The requested match specs."""
        return self.asked.packages

    @property
    def pypi(self) -> tuple[str, ...]:
        """The requested PyPI requirements."""
        return self.asked.pypi

    @property
    def is_locked(self) -> bool:
        """Whether a lock gives the exact packages."""
        return isinstance(self.what, Exact)

    @property
    def overlay(self) -> Overlay | None:
        """What is laid over a base; None for an environment without one."""
        return self.what if isinstance(self.what, Overlay) else None

    @property
    def digest(self) -> str:
        """SHA-256 of the encoding that docs/reference/specification.md defines, 64 hex digits.

        For plain specs from the default channel, the encoding is the sorted specs joined by newlines, as in
        conda-execute; everything else follows as canonical JSON. Credentials are left out. The encoding of a locked
        environment has only the locked packages and the variables, so that equal locks share one environment; build
        settings follow only if a package is built from source.
        """
        return sha256_of(self.encoding.encode("utf-8", "surrogatepass"))

    @property
    def encoding(self) -> str:
        """The text that the digest is computed from: ASCII, except for the URLs of a lock."""
        if isinstance(self.what, Exact):
            variables = {"schema": DIGEST_SCHEMA, "variables": dict(self.variables)}
            # without variables, schema 1 wrote (), and schema 2 still does
            lines = sorted([*_lines(self.what.conda), *_lines(self.what.pypi)])
            head = ["@EXPLICIT", *lines, canonical_json(variables) if self.variables else "()"]
            builds = self.pypi_settings.of_builds if any(package.is_built for package in self.what.pypi) else {}
            return "\n".join([*head, *([canonical_json({"builds": builds})] if builds else [])])
        # sorted without their credentials, which could change the order
        text = "\n".join(sorted({strip_credentials(spec) for spec in self.packages}))
        extra = {key: value for key, value in self.as_dict().items() if key != "packages"}
        if extra.get("channels") == [DEFAULT_CHANNEL]:
            del extra["channels"]
        extra |= schema_of((*self.packages, *(self.what.conda if isinstance(self.what, Overlay) else ())))
        return f"{text}\n\n{canonical_json(extra)}" if extra else text

    @property
    def name(self) -> str:
        """The first :data:`NAME_LENGTH` hex digits of the digest: the name of the environment's directory."""
        return self.digest[:NAME_LENGTH]

    def as_dict(self) -> dict[str, Any]:
        """Return the specification as JSON values, without empty parts and credentials, for storing and showing."""
        exact: dict[str, Any] = {}
        match self.what:
            case Exact(conda, pypi):
                exact = {"explicit": _lines(conda), "explicit-pypi": _lines(pypi)}
            case Over(conda, pypi):
                exact = {"pinned": _lines(conda), "pinned-pypi": _lines(pypi)}
            case Overlay():
                exact = {"overlay": self.what.as_dict()}
        pairs: dict[str, Any] = {
            "packages": [strip_credentials(spec) for spec in self.packages],
            "channels": [strip_credentials(channel) for channel in self.channels],
            "pypi": sorted(map(strip_credentials, self.pypi)),
            "pypi-settings": self.pypi_settings.as_dict(),
            "variables": dict(self.variables),
            "virtual-packages": dict(self.virtual_packages),
            "explicit": [],
            "explicit-pypi": [],
            "exclude-newer": self.exclude_newer,
            "pinned": [],
            "pinned-pypi": [],
            "overlay": {},
            "solving": self.solving.as_dict(),
        }
        return {key: value for key, value in {**pairs, **exact}.items() if value}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EnvironmentSpec:
        """Return the specification that :meth:`as_dict` wrote. Raises ValueError if it is not one."""
        found = decode(_Document, data)
        return cls(found.what(), **{name: getattr(found, name) for name in cls._fields if name in _Document._fields})

    def redacted(self) -> EnvironmentSpec:
        """Return the same without credentials, for messages."""
        return self.from_dict(self.as_dict())


class _Document(Value):
    """The document that :meth:`EnvironmentSpec.as_dict` writes."""

    packages: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    pypi: tuple[str, ...] = ()
    pypi_settings: PypiSettings = _NO_SETTINGS
    variables: tuple[tuple[str, str], ...] = ()
    virtual_packages: tuple[tuple[str, str], ...] = ()
    explicit: tuple[str, ...] = ()
    explicit_pypi: tuple[str, ...] = ()
    exclude_newer: str | None = None
    pinned: tuple[str, ...] = ()
    pinned_pypi: tuple[str, ...] = ()
    overlay: Overlay | None = None
    solving: Solving = NO_SOLVING

    @staticmethod
    def json_key(field: str) -> str:
        """Return the key of a field in a document."""
        return field.replace("_", "-")

    def what(self) -> Solve | Exact | Over | Overlay:
        """Return the content of the environment."""
        asked = Solve(self.packages, self.pypi)
        if self.overlay is not None:
            return self.overlay
        for kind, conda, pypi in ((Exact, self.explicit, self.explicit_pypi), (Over, self.pinned, self.pinned_pypi)):
            if conda or pypi:
                return kind(tuple(map(Package.from_line, conda)), tuple(map(PypiPackage.from_line, pypi)), asked)
        return asked


def _lines(packages: Sequence[Package | PypiPackage]) -> list[str]:
    return [strip_credentials(package.line) for package in packages]


# To list 10,000 environments as many markers are read: absent parts take no time.
