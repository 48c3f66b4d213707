"""Translate a request for rattler: channels as URLs, match specs with these URLs, and options.

Nothing here contains credentials except :attr:`Plan.access`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cetool.base.errors import EngineError
from cetool.base.text import pattern
from cetool.base.urls import redact, scrub, strip_credentials
from cetool.base.values import Value
from cetool.declare.channels import resolve_channel
from cetool.declare.match_fields import Fields, read_fields
from cetool.declare.match_specs import url_in
from cetool.declare.package import Package
from cetool.declare.platforms import current_platform, default_virtual_packages
from cetool.engines.explicit import distinct
from cetool.engines.protocol import EngineRequest
from cetool.engines.rattler.client import Access, access_to
from cetool.settings.condarc import Condarc

if TYPE_CHECKING:
    from rattler import GenericVirtualPackage, MatchSpec

_CHANNEL = pattern(r'channel="([^"]*)"')
#: Fields of match specs that rattler ignores or compares differently from CEP 29: it only gets records that match.
SELECTED = ("subdir", "fn", "extras", "license", "license_family")
#: Fields that rattler compares case-sensitively, unlike CEP 29.
_COMPARED = ("license", "license_family")


_FIELD = pattern(r'\s*\b(?:url|md5|sha256)="[^"]*"\s*,?')
_FILE = pattern(r"(.+)-([^-]+)-([^-]+)(?:\.conda|\.tar\.bz2)")


#: The variables ``CONDA_OVERRIDE_*`` that are passed to rattler: its argument, and the end of the name.
_OVERRIDDEN = {"osx": "OSX", "libc": "GLIBC", "cuda": "CUDA", "archspec": "ARCHSPEC"}


class Direct(Value):
    """A match spec with the URL of a file: its position among the specs, its text, and the package."""

    position: int
    text: str
    package: Package


def package_at(url: str, spec: MatchSpec) -> Package:
    """Return the package for a match spec with this URL, with the digests that it requires. Raises EngineError."""
    file = unquote(urlsplit(url).path.rpartition("/")[2])
    found = _FILE.fullmatch(file)
    if found is None or "?" in url:
        raise EngineError(
            f"{redact(url)} is not the URL of a conda package",
            code="match-spec-invalid",
            hint="The URL must end with NAME-VERSION-BUILD.conda or NAME-VERSION-BUILD.tar.bz2, without a query.",
        )
    return Package(
        name=found[1],
        version=found[2],
        build=found[3],
        subdir=url.rsplit("/", 2)[1],
        url=url,
        sha256=spec.sha256.hex() if spec.sha256 else None,
        md5=spec.md5.hex() if spec.md5 else None,
    )


def without_url(text: str, sha256: str | None = None) -> str:
    """Return the canonical match spec without its URL and digests, and with the computed SHA-256 instead."""
    head, bracket, fields = text.partition("[")
    rest = _FIELD.sub("", fields.rpartition("]")[0] if bracket else "").strip(" ,")
    named = ([f'sha256="{sha256}"'] if sha256 else []) + ([rest] if rest else [])
    return f"{head}[{','.join(named)}]" if named else head


class Plan(Value):
    """A request in the form for rattler.

    ``channels`` are pairs of URL and name for messages; ``specs`` are pairs of match spec and original text;
    ``selected`` has, by package name, the specs with fields that rattler's solver ignores
    (:mod:`cetool.engines.rattler.sources`); ``direct`` are the specs with URLs of packages.
    """

    channels: tuple[tuple[str, str], ...]
    specs: tuple[tuple[MatchSpec, str], ...]
    pins: tuple[MatchSpec, ...]
    access: Access
    condarc: Condarc
    offline: bool
    subdir: str | None
    selected: Mapping[str, tuple[Fields, ...]] = MappingProxyType({})
    direct: tuple[Direct, ...] = ()

    def channel_of(self, url: str) -> str:
        """Return the name of a URL's channel for messages; the redacted URL if it is in no channel."""
        url = strip_credentials(url)
        fitting = [(len(base), name) for base, name in self.channels if f"{url}/".startswith(base + "/")]
        for origin in self.access.origins_of(url):
            fitting += [(len(base), name) for base, name in self.channels if f"{base}/".startswith(origin)]
        return max(fitting)[1] if fitting else redact(url)

    @property
    def channel_names(self) -> str:
        """All channels, for a message."""
        return ", ".join(name for _, name in self.channels)


def make_plan(
    request: EngineRequest, condarc: Condarc, environ: Mapping[str, str], access: Access | None = None
) -> Plan:
    """Return the plan for a request and configuration; plans that share ``access`` add their channels to it.

    Raises EngineError for what the configuration forbids or rattler does not support.
    """
    from rattler import MatchSpec

    access = access or access_to(condarc)
    channels: dict[str, str] = {}
    for channel in request.channels:
        for url in resolve_channel(channel, condarc):
            channels.setdefault(access.plain(url), strip_credentials(channel if "://" not in channel else url))
    specs: list[tuple[MatchSpec, str]] = []
    direct: list[Direct] = []
    selected: dict[str, tuple[Fields, ...]] = {}
    for package in (*distinct(request.exact), *request.pinned):
        channels.setdefault(access.plain(package.channel), package.channel)
    for text in request.packages if not request.exact else ():
        fields = _selecting(text, selected)
        spec = _parsed(fields.text(*_COMPARED) if fields is not None else text)
        canonical = spec.to_canonical_string()
        asked_for = str(spec)
        if spec.channel is not None:
            url = _own_channel(asked_for, canonical, condarc)
            channels.setdefault(access.plain(url), strip_credentials(url))
            found = _CHANNEL.search(canonical)
            if found:
                canonical = canonical.replace(found[0], f'channel="{access.plain(url)}/"')
        if address := url_in(asked_for):
            directory, _, file = address.rpartition("/")
            plain = f"{access.plain(directory)}/{file}"
            direct.append(Direct(len(specs), canonical, package_at(plain, spec)))
            canonical = without_url(canonical)
        specs.append((MatchSpec(canonical), strip_credentials(text)))
    _refuse_forbidden(channels, condarc)
    pins = []
    for pin in condarc.pinned_packages:
        _selecting(pin, selected)
        pins.append(_parsed(_fields_of(pin).text(*_COMPARED)))
    return Plan(
        channels=tuple(channels.items()),
        specs=tuple(specs),
        pins=tuple(pins),
        access=access,
        condarc=condarc,
        offline=request.offline or condarc.offline,
        subdir=request.platform or environ.get("CONDA_SUBDIR") or None,
        selected=selected,
        direct=tuple(direct),
    )


def _selecting(text: str, selected: dict[str, tuple[Fields, ...]]) -> Fields | None:
    """Return the fields of a match spec and add them to ``selected``; None if rattler's solver supports all of them."""
    if "[" not in text and "/" not in text:
        return None
    fields = _fields_of(text)
    if not any(fields.get(key) for key in SELECTED):
        return None
    if fields.get("when"):
        used = ", ".join(key for key in SELECTED if fields.get(key))
        raise EngineError(
            f"{redact(text)!r} has both a condition and {used}, which the embedded engine does not support",
            hint="Remove one of them.",
        )
    selected[fields.name] = (*selected.get(fields.name, ()), fields)
    return fields


def _fields_of(text: str) -> Fields:
    try:
        return read_fields(text)
    except ValueError as error:
        raise EngineError(
            f"{redact(text)!r} is not a match spec: {scrub(str(error))}", code="match-spec-invalid"
        ) from None


def _parsed(text: str) -> MatchSpec:
    from rattler import MatchSpec
    from rattler.exceptions import InvalidMatchSpecError

    try:
        return MatchSpec(text)
    except InvalidMatchSpecError as error:
        reason = scrub(str(error)).splitlines()[0]
        raise EngineError(f"{redact(text)!r} is not a match spec: {reason}", code="match-spec-invalid") from None


def _own_channel(asked_for: str, canonical: str, condarc: Condarc) -> str:
    """Return the URL of the channel in a match spec, with credentials."""
    quoted = _CHANNEL.search(asked_for) or _CHANNEL.search(canonical)
    name = quoted[1] if quoted else ""
    urls = resolve_channel(name, condarc)
    if len(urls) != 1:
        raise EngineError(
            f"'{name}::' means several channels, which the embedded engine does not support in a match spec",
            hint=f"Use one of these channels in the match spec, or add '{name}' to the channels.",
        )
    return urls[0]


def _refuse_forbidden(channels: Mapping[str, str], condarc: Condarc) -> None:
    """Raise EngineError for channels that ``denylist_channels`` or ``allowlist_channels`` exclude, as conda does."""

    def listed(names: tuple[str, ...]) -> set[str]:
        return {strip_credentials(url).rstrip("/") for name in names for url in resolve_channel(name, condarc)}

    denied = listed(condarc.denylist_channels)
    allowed = listed(condarc.allowlist_channels)
    for url, name in channels.items():
        if url in denied or (allowed and url not in allowed):
            raise EngineError(
                f"conda's configuration does not allow the channel '{name}'",
                code="channel-refused",
                hint="See allowlist_channels and denylist_channels in .condarc.",
            )


def virtual_packages(
    overrides: Iterable[tuple[str, str]], environ: Mapping[str, str], platform: str | None = None
) -> list[GenericVirtualPackage]:
    """Return the virtual packages (``__glibc``, ``__cuda``, ...), with overrides.

    For this machine they are detected; for another ``platform`` they are those of most machines.
    """
    from rattler import GenericVirtualPackage, PackageName, Version
    from rattler.exceptions import InvalidVersionError
    from rattler.package import BuildString

    found = _default_packages(platform)
    if not found:
        found = _detected_packages(environ)
        of_system = {f"__{name}": environ.get(f"CONDA_OVERRIDE_{name.upper()}") for name in ("linux", "win")}
        overrides = [*((name, value) for name, value in of_system.items() if value is not None), *overrides]
    for name, value in overrides:
        found.pop(name, None)
        if not value:
            continue  # an empty value removes the virtual package, as with CONDA_OVERRIDE_CUDA=""
        # for __archspec the build string is the microarchitecture, as in CONDA_OVERRIDE_ARCHSPEC
        version, build = ("1", value) if name == "__archspec" else (value, "0")
        try:
            found[name] = GenericVirtualPackage(PackageName(name), Version(version), BuildString(build))
        except (InvalidVersionError, ValueError) as error:
            raise EngineError(
                f"{value!r} is not a valid version of the virtual package '{name}': {error}",
                code="virtual-package-invalid",
            ) from None
    return list(found.values())


def detect_virtual_packages(environ: Mapping[str, str], overrides: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the machine's virtual packages with overrides: name to ``VERSION=BUILD``, sorted.

    Raises EngineError if they cannot be detected.
    """
    found = virtual_packages(overrides, environ)
    return {
        each.name.normalized: f"{each.version}={each.build_string}"
        for each in sorted(found, key=lambda each: each.name.normalized)
    }


def _detected_packages(environ: Mapping[str, str]) -> dict[str, GenericVirtualPackage]:
    from rattler import VirtualPackage, VirtualPackageOverrides
    from rattler.exceptions import DetectVirtualPackageError
    from rattler.virtual_package.virtual_package import Override

    given = {part: environ.get(f"CONDA_OVERRIDE_{name}") for part, name in _OVERRIDDEN.items()}
    overrides = {part: Override.string(value) for part, value in given.items() if value is not None}
    try:
        detected = VirtualPackage.detect(VirtualPackageOverrides(**overrides))
    except DetectVirtualPackageError as error:
        raise EngineError(
            f"cannot detect the machine's virtual packages: {error}", code="virtual-package-invalid"
        ) from None
    return {generic.name.normalized: generic for generic in (package.into_generic() for package in detected)}


def _default_packages(platform: str | None) -> dict[str, GenericVirtualPackage]:
    """Return the default virtual packages of another platform; empty for the current one."""
    if platform is None or platform == current_platform():
        return {}
    from rattler import GenericVirtualPackage, PackageName, Version
    from rattler.package import BuildString

    return {
        name: GenericVirtualPackage(PackageName(name), Version(version), BuildString(build))
        for name, (version, build) in default_virtual_packages(platform).items()
    }
