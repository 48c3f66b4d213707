"""What requests may use: channels, indexes, URLs and packages, by the settings of their namespace and environment.

Admins of a namespace, which all users are of their own, can only narrow what the server allows: what a level allows
must be allowed by the levels above, what a level requires is required below, and only channels that the server's
settings list may be in its own network. Defaults are those of the narrowest level.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from cetool.base.errors import CetoolError
from cetool.base.text import shorten
from cetool.base.urls import redact, split_url, strip_credentials
from cetool.base.values import strings_in
from cetool.declare.channels import canonical_channel
from cetool.declare.environment import EnvironmentSpec, Exact
from cetool.declare.match_fields import read_fields
from cetool.declare.match_specs import canonical_spec, spec_name
from cetool.declare.package import Package, PypiPackage
from cetool.declare.requirements import Requirements
from cetool.server.config import ServerConfig

#: The directory that paths in requests start from. It does not exist, so that they can be recognized.
NOWHERE = Path("/cetool-request")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"',;\]]+")
_SECURE = frozenset(("https", "git+https"))
#: Names of hosts that are on this machine or in its network.
_LOCAL = re.compile(r"(?:.*\.)?(?:localhost|local|internal|lan|home|intranet|localdomain)\Z|[^.]+\Z", re.IGNORECASE)
_SECRETS = "Requests are stored and shown to others. The server's operator can keep credentials in ~/.netrc."
_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that hold for an environment. Patterns have ``*`` for any text; None allows everything."""

    channels_allowed: tuple[str, ...] | None = None
    channels_default: tuple[str, ...] = ("conda-forge",)
    channels_required: tuple[str, ...] = ()
    packages_allowed: tuple[str, ...] | None = None
    packages_default: tuple[str, ...] = ()
    packages_required: tuple[str, ...] = ()
    #: The channels that the server's own settings name, which may be anywhere.
    channels_listed: tuple[str, ...] = ()
    #: What namespace and environment allow: each list has to have a channel or package, too.
    channels_within: tuple[tuple[str, ...], ...] = ()
    packages_within: tuple[tuple[str, ...], ...] = ()

    # --- what is added --------------------------------------------------------------------------------------------

    def completed(self, needs: Requirements) -> Requirements:
        """Return the requirements with the packages and channels that the settings add."""
        packages = needs.packages
        if not packages and not needs.pypi:
            packages = tuple(_spec(text) for text in self.packages_default)
        names = set(map(spec_name, packages))
        packages += tuple(spec for spec in map(_spec, self.packages_required) if spec_name(spec) not in names)
        channels = needs.channels
        required = tuple(map(_channel, self.channels_required))
        if required:
            named = self.default_channels if channels is None else needs.channels_after(self.default_channels)
            channels = tuple(dict.fromkeys((*named, *required)))
            needs = needs._replace(configured=False)
        return needs._replace(packages=packages, channels=channels)

    @property
    def default_channels(self) -> tuple[str, ...]:
        """The channels of a request that names none, canonical."""
        return tuple(map(_channel, self.channels_default))

    @property
    def usable_channels(self) -> tuple[str, ...]:
        """The channels of a request that names none, unchanged, without those that would be refused."""
        return tuple(text for text in self.channels_default if self._may_use(_channel(text)))

    def _may_use(self, channel: str) -> bool:
        try:
            self._check_channel(channel)
        except CetoolError:
            return False
        return True

    # --- what is refused ------------------------------------------------------------------------------------------

    def check(self, spec: EnvironmentSpec) -> None:
        """Raise CetoolError for a specification with something that requests may not use."""
        if spec.overlay is not None:
            raise _refused("overlays", "an overlay needs a directory of the machine that it runs on")
        if isinstance(spec.what, Exact):
            self.check_packages(spec.what.conda, spec.what.pypi)
            return
        for channel in spec.channels:
            self._check_channel(channel)
        for text in (*spec.packages, *spec.solving.constraints):
            self._check_spec(text)
        for text in spec.pypi:
            self._check_name(_REQUIREMENT.match(text), text)
        for text in (*spec.pypi, *strings_in(spec.pypi_settings)):
            for url in _URL.findall(text):
                self._check_url(url)
            if text.startswith(("/", "./", "../", "~")) or str(NOWHERE) in text:
                raise _refused(text, "requests cannot refer to files of the server")

    def check_packages(self, conda: Iterable[Package], pypi: Iterable[PypiPackage]) -> None:
        """Raise CetoolError for exact packages from elsewhere than allowed, and for those without a digest."""
        for package in conda:
            self._check_channel(canonical_channel(package.channel, base_dir=NOWHERE))
            self._check_name(_REQUIREMENT.match(package.name), package.name)
            if package.digest is None:
                raise _undigested(package.name)
        for each in pypi:
            self._check_url(each.url)
            self._check_name(_REQUIREMENT.match(each.name), each.name)
            if each.sha256 is None and not each.url.startswith("git+"):
                raise _undigested(each.name)

    def _check_spec(self, text: str) -> None:
        for url in _URL.findall(text):
            self._check_url(url)
        self._check_name(_REQUIREMENT.match(spec_name(text)), text)
        try:
            channel = read_fields(text).channel
        except ValueError:
            return  # it has a URL, which is checked
        if channel is not None and "://" not in channel:
            self._check_channel(channel)

    def _check_name(self, found: re.Match[str] | None, text: str) -> None:
        name = text if found is None else found[0].lower()
        if name.startswith("__"):
            return
        for allowed in (*([] if self.packages_allowed is None else [self.packages_allowed]), *self.packages_within):
            if not any(fnmatchcase(name, pattern.lower()) for pattern in allowed):
                raise CetoolError(
                    f"the package {shorten(redact(name))!r} is not allowed here",
                    code="not-allowed",
                    about=name,
                    hint=f"Allowed are {', '.join(allowed) or 'none'}.",
                )

    def _check_channel(self, channel: str) -> None:
        if strip_credentials(channel) != channel:
            raise CetoolError(
                f"the channel {redact(channel)} has a password or token",
                code="secret-refused",
                about=redact(channel),
                hint=_SECRETS,
            )
        if not _is_in(channel, self.channels_listed):
            if self.channels_allowed is not None:
                raise _disallowed(channel, self.channels_allowed)
            if "://" in channel:
                self._check_place(channel)
        for allowed in self.channels_within:
            if not _is_in(channel, (*allowed, *self.channels_default, *self.channels_required)):
                raise _disallowed(channel, allowed)

    def _check_url(self, url: str) -> None:
        """Check an index, or the URL of a package."""
        if strip_credentials(url) != url:
            raise CetoolError(
                f"the URL {redact(url)} has a password or token",
                code="secret-refused",
                about=redact(url),
                hint=_SECRETS,
            )
        ends = [*(at.start() for at in re.finditer("/", url)), len(url)]
        if not any(_is_in(url[:end], self.channels_listed) for end in ends):
            self._check_place(url)

    def _check_place(self, url: str) -> None:
        """Raise CetoolError for a URL that is not public.

        Names are not resolved: TLS protects services in the server's network, since a stranger's name has no
        certificate of theirs.
        """
        try:
            parts = split_url(url)
            host = parts.host
        except ValueError as error:
            raise _refused(url, str(error)) from None
        if parts.scheme not in _SECURE:
            raise _refused(url, "a URL in a request must start with https://")
        try:
            private = not ipaddress.ip_address(host.strip("[]")).is_global
        except ValueError:
            # also numbers such as 2130706433 and 0x7f.1, which are addresses too
            private = _LOCAL.match(host.rstrip(".")) is not None or re.fullmatch(r"[0-9.]*|0x.*", host) is not None
        if private:
            raise _refused(url, "it is not a public address")


def policy_of(config: ServerConfig, levels: Sequence[Mapping[str, Any]]) -> Policy:
    """Return the policy of an environment, from the configuration and the settings in the database.

    ``levels`` are those of the server, which win over the configuration, of the namespace and of the environment.
    """
    server, *below = levels

    def outer(key: str) -> tuple[str, ...] | None:
        found = server.get(key, getattr(config, key.replace("-", "_")))
        return None if found is None else tuple(map(str, found))

    def inner(key: str) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(map(str, level[key])) for level in below if level.get(key) is not None)

    def default(key: str) -> tuple[str, ...]:
        return (outer(key) or (), *inner(key))[-1]

    def required(key: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each for level in (outer(key) or (), *inner(key)) for each in level))

    channels = [outer(f"channels-{how}") or () for how in ("allowed", "default", "required")]
    return Policy(
        outer("channels-allowed"),
        default("channels-default"),
        required("channels-required"),
        outer("packages-allowed"),
        default("packages-default"),
        required("packages-required"),
        tuple(dict.fromkeys(each for level in channels for each in level)),
        inner("channels-allowed"),
        inner("packages-allowed"),
    )


def _is_in(channel: str, patterns: Iterable[str]) -> bool:
    """Return whether a pattern, or the name or URL of a channel, means this channel."""
    bare = channel.rstrip("/")
    return any(
        fnmatchcase(bare, pattern.rstrip("/")) or ("*" not in pattern and bare == _channel(pattern))
        for pattern in patterns
    )


def _disallowed(channel: str, allowed: Sequence[str]) -> CetoolError:
    return CetoolError(
        f"the channel {shorten(channel)} is not allowed here",
        code="not-allowed",
        about=channel,
        hint=f"Allowed are {', '.join(map(redact, allowed)) or 'none'}.",
    )


def _channel(text: str) -> str:
    return canonical_channel(text, base_dir="/")


def _spec(text: str) -> str:
    return canonical_spec(text, base_dir=NOWHERE)


def _refused(text: str, why: str) -> CetoolError:
    shown = shorten(redact(text).replace(str(NOWHERE), "."))
    return CetoolError(
        f"{shown} cannot be used in a request: {why}",
        code="channel-refused",
        about=shown,
        hint="The server's operator can allow it with `channels-allowed`.",
    )


def _undigested(name: str) -> CetoolError:
    return CetoolError(
        f"the lock has no digest of {name}",
        code="lock-impossible",
        about=name,
        hint="Write the lock with a tool that records digests, such as `cetool lock`.",
    )
