"""A script's URL as an address that may be asked for: checked, in ASCII, its credentials held apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from cetool.digests import sha256_of
from cetool.errors import Location, UsageError
from cetool.spec.source import printable
from cetool.spec.urls import Url, split_url, strip_credentials

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f-\xa0\s<>\"\\\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")
_ALPHABET = "%/:=&?~+!$,;'@()*[]"  # of a URL: these and what quote() leaves alone stay as they are


@dataclass(frozen=True)
class Address:
    """An ASCII URL that may be asked for, without user, password and fragment; ``basic`` authenticates there.

    ``origin`` is scheme, host and port; ``fragment`` is what followed the ``#``, which servers are not told.
    """

    url: str
    scheme: str
    host: str
    origin: str
    basic: str | None
    fragment: str = ""

    @property
    def shown(self) -> str:
        """The URL as it may be shown and stored."""
        return strip_credentials(self.url)

    @property
    def where(self) -> Location:
        """The place that messages name."""
        return Location(self.shown)

    @property
    def key(self) -> str:
        """What stands for the whole URL, tokens in its query included, and tells nothing of it (SHA-256, 64 digits)."""
        return sha256_of(f"{self.url}#{self.fragment}".encode("utf-8", "surrogatepass"))

    @property
    def file_name(self) -> str:
        """The last part of the path, decoded, without what cannot be in a file's name; may be empty."""
        last = split_url(self.url).decoded_path.rpartition("/")[2]
        return "".join(char for char in last if char.isprintable() and char not in "/\\").strip(" .")


def parse_address(text: str) -> Address:
    """The address that a URL names. Raises UsageError; what it says never shows a password."""
    scheme = _SCHEME.match(text)
    shown = Location(printable(strip_credentials(text)))
    if scheme is None or scheme[1].lower() not in ("http", "https"):
        is_file = scheme is not None and scheme[1].lower() == "file"
        raise UsageError(
            "a script's file is given by its path, not by a file:// URL" if is_file else "this is no https:// URL",
            where=shown,
            hint="Write the path alone." if is_file else "Fetch it with what can, and give its path.",
        )
    bad = _NOT_IN_URLS.search(text)
    if bad is not None:
        raise UsageError(
            f"there is a character in this URL that none can have: {bad[0]!r}",
            where=shown,
            hint="Put quotes around a URL in a shell, and copy all of it; a blank in one is written %20.",
        )
    try:
        parts = split_url(text)
        host = _ascii_host(parts.host.removeprefix("[").removesuffix("]"))
    except ValueError:  # UnicodeError too
        raise UsageError(
            "there is no valid host in this URL", where=shown, hint="https://HOST/PATH/script.py"
        ) from None
    return _address(parts, host)


def _address(parts: Url, host: str) -> Address:
    scheme = parts.scheme.lower()
    shown_host = f"[{host}]" if ":" in host else host
    default = 443 if scheme == "https" else 80
    origin = f"{scheme}://{shown_host}" + ("" if parts.port in (None, default) else f":{parts.port}")
    target = quote(parts.path or "/", safe=_ALPHABET)
    query = f"?{quote(parts.query, safe=_ALPHABET)}" if parts.query else ""
    return Address(origin + target + query, scheme, host, origin, parts.basic, parts.fragment or "")


def _ascii_host(host: str) -> str:
    """The host in ASCII (IDNA), lower case. Raises ValueError for what can be none."""
    if ":" in host:
        import ipaddress

        ipaddress.IPv6Address(host)
        return host
    name = host.encode("idna").decode("ascii").lower()
    if not all(_HOST_LABEL.match(label) for label in name.removesuffix(".").split(".")):
        raise ValueError(host)
    return name
